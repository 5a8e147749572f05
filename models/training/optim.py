"""The optimiser and the schedule of its learning rate."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn, optim

Schedule = Literal["cosine", "step"]


def make_optimizer(model: nn.Module, momentum: float, weight_decay: float) -> optim.SGD:
    """SGD with Nesterov momentum, without weight decay on biases and normalisation."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, schedule: Schedule = "cosine"
) -> float:
    """Linear warm-up (Goyal et al. 2017), then half a cosine down to zero (Loshchilov & Hutter 2017).

    The schedule "step" divides the rate by 10 after half of the steps and again after three quarters (He et al. 2016a,
    section 4.2).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "step":
        return peak * (1.0 if step < total_steps / 2 else 0.1 if step < total_steps * 3 / 4 else 0.01)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value
