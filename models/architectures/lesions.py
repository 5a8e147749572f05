"""Networks without some of their blocks, for lesion studies (Veit et al. 2016, "Residual Networks Behave Like Ensembles
of Relatively Shallow Networks", section 4)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.blocks import LinearJoinBlock, PostActivationBlock, PreActivationBlock
from models.architectures.resnet import ResNet


class NotDeletable(ValueError):
    """A block cannot be deleted: it has no shortcut and changes the shape of its input, or does not exist."""


class ShortcutAlone(nn.Module):
    """A block without its residual branch; input and output have the same shapes as with it.

    A plain block has no shortcut: its layers are left out, if its input and its output have the same shape.

    Raises:
        NotDeletable: the block is plain and changes the shape.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        if not isinstance(block, LinearJoinBlock | PostActivationBlock | PreActivationBlock):
            raise TypeError(f"expected a block, found {type(block).__name__}")
        if not can_be_deleted(block):
            raise NotDeletable("a block without a shortcut that changes the shape cannot be deleted")
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        if block.shortcut is None:
            return x
        if isinstance(block, PreActivationBlock):
            return block.shortcut(F.relu(block.norms[0](x)) if block.shares_activation else x)  # type: ignore[no-any-return]
        if isinstance(block, LinearJoinBlock):
            x = block.convs[0](x)
        return F.relu(block.shortcut(x))


def blocks_of(model: ResNet) -> list[nn.Module]:
    """The blocks of all stages, from the input to the output."""
    return [block for stage in model.stages for block in stage.children()]


def block_names(model: ResNet) -> list[str]:
    """Names of the blocks for people, in the same order."""
    return [
        f"stage {number}, block {index}"
        for number, stage in enumerate(model.stages, 1)
        for index in range(1, 1 + len(list(stage.children())))
    ]


def changes_shape(block: nn.Module) -> bool:
    """Whether the output of a block has another shape than its input."""
    convs = [module for module in block.get_submodule("convs").modules() if isinstance(module, nn.Conv2d)]
    return convs[0].in_channels != convs[-1].out_channels or any(conv.stride != (1, 1) for conv in convs)


def can_be_deleted(block: nn.Module) -> bool:
    """Whether something remains of a block without its layers: a shortcut, or its input, which has the right shape."""
    return getattr(block, "shortcut", None) is not None or not changes_shape(block)


def with_blocks(model: ResNet, blocks: Iterable[nn.Module]) -> ResNet:
    """A network with other blocks in the places of its own, in the order of `blocks_of`. It shares its parameters with
    `model`."""
    following = iter(blocks)
    changed = copy.copy(model)
    changed._modules = dict(model._modules)
    changed.stages = nn.ModuleList(
        nn.Sequential(*(next(following) for _ in stage.children())) for stage in model.stages
    )
    return changed


def without_blocks(model: ResNet, deleted: Collection[int]) -> ResNet:
    """A network without the residual branches of some blocks. It shares its parameters with `model`.

    Args:
        model: the network.
        deleted: positions of the blocks, from 0, in the order of `blocks_of`.

    Raises:
        NotDeletable: there is no such block, or it has no shortcut and changes the shape.
    """
    count = len(blocks_of(model))
    if missing := sorted(set(deleted) - set(range(count))):
        raise NotDeletable(f"there is no block {missing[0]}: the blocks are 0 to {count - 1}")
    places = enumerate(blocks_of(model))
    return with_blocks(model, (ShortcutAlone(block) if place in deleted else block for place, block in places))
