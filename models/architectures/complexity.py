"""Parameters and multiply-adds of networks, counted as in the papers' tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Number of learned parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Multiply-adds of the convolutions and linear layers for one image of `size` (height and width in pixels).

    As in He et al. 2016a, additions, normalisation and pooling are not counted. The model may be on the meta device.
    """
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += (
                output.numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            )
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    handles = [module.register_forward_hook(count) for module in model.modules()]
    device = next(model.parameters()).device
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, channels, *size, device=device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return total
