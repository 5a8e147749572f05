"""Measurements on a trained network: blocks deleted, blocks exchanged, and the gradient by the length of its path.

Veit et al. 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", sections 4 and 5.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures import ResNet
from models.architectures.blocks import PostActivationBlock
from models.architectures.lesions import blocks_of, can_be_deleted, changes_shape, with_blocks, without_blocks

_BATCH = 250


@dataclass(frozen=True)
class Images:
    """Labelled images for a network, on its device."""

    inputs: Tensor
    """Normalised, float32 [N, C, H, W]."""
    labels: Tensor
    """int64 [N]."""


def accuracy(model: ResNet, images: Images) -> float:
    """Share of the images with the right first class."""
    right = 0
    with torch.inference_mode():
        for inputs, labels in zip(torch.split(images.inputs, _BATCH), torch.split(images.labels, _BATCH), strict=True):
            right += int((model(inputs).argmax(1) == labels).sum())
    return right / len(images.labels)


def fixed_shape(model: ResNet) -> list[int]:
    """Positions of the blocks whose output has the shape of their input."""
    return [place for place, block in enumerate(blocks_of(model)) if not changes_shape(block)]


def without_each(model: ResNet, images: Images) -> list[float | None]:
    """The accuracy without each block in turn; None for a block without a shortcut that changes the shape."""
    return [
        accuracy(without_blocks(model, {place}), images) if can_be_deleted(block) else None
        for place, block in enumerate(blocks_of(model))
    ]


def without_several(
    model: ResNet, images: Images, counts: Sequence[int], draws: int, rng: np.random.Generator
) -> list[float]:
    """The mean accuracy without random sets of blocks that keep the shape, for each number of blocks."""
    places = fixed_shape(model)
    return [
        float(
            np.mean(
                [
                    accuracy(without_blocks(model, set(rng.choice(places, count, replace=False).tolist())), images)
                    for _ in range(draws)
                ]
            )
        )
        for count in counts
    ]


def exchanged(model: ResNet, order: Sequence[int]) -> ResNet:
    """The network with its blocks in another order. It shares its parameters with `model`."""
    blocks = blocks_of(model)
    return with_blocks(model, (blocks[place] for place in order))


def random_order(model: ResNet, exchanges: int, rng: np.random.Generator) -> list[int]:
    """An order of the blocks after exchanges of two random blocks of one stage, both of which keep the shape."""
    order = list(range(len(blocks_of(model))))
    sizes = [len(list(stage.children())) for stage in model.stages]
    ends = list(itertools.accumulate(sizes))
    fixed = set(fixed_shape(model))
    stages = [[p for p in range(end - size, end) if p in fixed] for size, end in zip(sizes, ends, strict=True)]
    stages = [stage for stage in stages if len(stage) > 1]
    for _ in range(exchanges if stages else 0):
        one, other = rng.choice(stages[rng.integers(len(stages))], 2, replace=False)
        order[one], order[other] = order[other], order[one]
    return order


def kendall(order: Sequence[int]) -> float:
    """Kendall's rank correlation of an order with the ascending one: 1 for the same, -1 for the reverse."""
    pairs = list(itertools.combinations(order, 2))
    return sum(1 if first < second else -1 for first, second in pairs) / len(pairs)


def in_other_orders(
    model: ResNet, images: Images, exchanges: Sequence[int], draws: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Mean accuracy and mean rank correlation after numbers of exchanges."""
    accuracies, correlations = [], []
    for count in exchanges:
        orders = [random_order(model, count, rng) for _ in range(draws)]
        accuracies.append(float(np.mean([accuracy(exchanged(model, order), images) for order in orders])))
        correlations.append(float(np.mean([kendall(order) for order in orders])))
    return {"accuracy": accuracies, "correlation": correlations}


class _OnePath(nn.Module):
    """A block whose output is unchanged, and whose gradient goes through its branch only or its shortcut only."""

    def __init__(self, block: nn.Module, branch: bool) -> None:
        super().__init__()
        assert isinstance(block, PostActivationBlock)
        self.block, self.branch = block, branch

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        assert block.shortcut is not None
        z = block.convs[0](x)
        for conv in block.convs[1:]:
            z = conv(F.relu(z))
        shortcut = block.shortcut(x)
        return F.relu(z + shortcut.detach() if self.branch else z.detach() + shortcut)


def gradient_by_length(model: ResNet, images: Images, draws: int, rng: np.random.Generator) -> list[float]:
    """Norm of the gradient of the loss by the input, along one path, by the number of branches on it.

    The path goes through the branches of random blocks and through the shortcuts of the others.

    Args:
        model: a network with shortcuts, in evaluation mode.
        images: the norm is averaged over them.
        draws: random paths per length.
        rng: chooses the paths.

    Returns:
        A norm for each length from 0 to the number of blocks.
    """
    count = len(blocks_of(model))
    norms = []
    for length in range(count + 1):
        total = 0.0
        for _ in range(draws):
            gradient = path_gradient(model, set(rng.choice(count, length, replace=False).tolist()), images)
            total += float(gradient.flatten(1).norm(dim=1).mean())
        norms.append(total / draws)
    return norms


def path_gradient(model: ResNet, branches: set[int], images: Images) -> Tensor:
    """The gradient of the loss by the input, [N, C, H, W], along the path with these branches.

    Those of all paths add up to the gradient of the network.
    """
    places = enumerate(blocks_of(model))
    path = with_blocks(model, (_OnePath(block, place in branches) for place, block in places))
    inputs = images.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(path(inputs), images.labels, reduction="sum"), inputs)
    return gradient
