"""Batch normalisation with the statistics of the batches of all processes.

On GPUs this is `torch.nn.SyncBatchNorm`, which refuses CPUs; there it is a module of this file with the same gradient
(Ioffe & Szegedy 2015, section 3, with sums over all processes).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures import ResNet
from models.training.distributed.processes import Processes


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over processes on CPUs. A process may have no images."""

    processes: Processes

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, processes: Processes) -> SyncBatchNorm:
        """A module with the weights and statistics of another one."""
        result = cls(norm.num_features, norm.eps, norm.momentum)
        result.processes, result.training = processes, norm.training
        result.weight, result.bias = norm.weight, norm.bias
        result.running_mean, result.running_var = norm.running_mean, norm.running_var
        result.num_batches_tracked = norm.num_batches_tracked
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [N, C, H, W]."""
        if not self.training:
            return super().forward(x)
        mean, variance, count = _statistics(x.detach(), self.processes)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        return _Normalise.apply(x, self.weight, self.bias, mean, variance, count, self)  # type: ignore[no-any-return, no-untyped-call]


def synchronise_norms(model: ResNet, processes: Processes, device: torch.device) -> ResNet:
    """Let batch normalisation measure its statistics over all processes; weights stay the same objects."""
    if processes.count == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SyncBatchNorm.of(child, processes))
    return model


def _statistics(x: Tensor, processes: Processes) -> tuple[Tensor, Tensor, int]:
    """Mean and variance, float32 [C], over the images [N, C, H, W] of all processes, and the number of values."""
    channels, count = x.shape[1], x.numel() // x.shape[1]
    # Sums in float64: the difference of large squares loses digits.
    sums = torch.zeros(2 * channels + 1, dtype=torch.float64)
    if count:
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        mean, variance = mean.double(), variance.double()
        sums = torch.cat([mean * count, (variance + mean * mean) * count, torch.tensor([count], dtype=torch.float64)])
    processes.add(sums)
    total = int(sums[-1])
    mean, squares = sums[:channels] / total, sums[channels:-1] / total
    return mean.float(), (squares - mean * mean).clamp(min=0).float(), total


class _Normalise(torch.autograd.Function):
    """The gradient of weights is that of this process's images; the step adds it over the processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: int,
        norm: SyncBatchNorm,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.count, ctx.norm = count, norm
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, norm.eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        scale = (variance + ctx.norm.eps).rsqrt()
        axes = (0, 2, 3)
        sum_bias = gradient.sum(axes, dtype=torch.float32)
        sum_weight = ((x - mean[:, None, None]) * gradient).sum(axes, dtype=torch.float32) * scale
        bias, product = ctx.norm.processes.add(torch.stack([sum_bias, sum_weight])) / ctx.count
        by_gradient = (weight * scale)[:, None, None]
        by_x = (weight * scale * scale * product)[:, None, None]
        constant = (weight * scale * (scale * product * mean - bias))[:, None, None]
        result = (gradient * by_gradient - x * by_x + constant).to(x.dtype)
        return result, sum_weight, sum_bias, None, None, None, None
