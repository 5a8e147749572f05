"""Stochastic depth (Huang et al. 2016): in training, some images skip the convolutions of some blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.architectures import ResNet


class StochasticDepth:
    """Multiplies the output of each block's convolutions by 0 or by 1 / (share that is kept), per image.

    Block l of L is skipped by the share `rate` * l / L of the images.

    Args:
        model: the network; its blocks get a hook, which does nothing in evaluation mode.
        rate: share of images that skip the last block.
    """

    def __init__(self, model: ResNet, rate: float) -> None:
        blocks: list[Any] = [block for stage in model.stages for block in stage.children()]
        blocks = [block for block in blocks if block.shortcut is not None]
        self._factors: list[Tensor | None] = [None] * len(blocks)
        device = next(model.parameters()).device
        self.kept = 1 - rate * torch.arange(1, len(blocks) + 1, device=device) / max(1, len(blocks))
        """Share of images that pass each block, float32 [blocks]."""
        for index, block in enumerate(blocks):
            block.convs[-1].register_forward_hook(self._hook(index))

    def draw(self, draws: Tensor) -> None:
        """Choose the blocks of the images of the next forward pass by numbers of [0, 1), float32 [N, blocks]."""
        factors = (draws < self.kept) / self.kept
        self._factors = [column[:, None, None, None] for column in factors.T]

    def _hook(self, index: int) -> Any:
        def scale(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
            factor = self._factors[index]
            return output * factor.to(output.dtype) if module.training and factor is not None else None

        return scale
