"""The learning rate and the image size over a run."""

from __future__ import annotations

import math

from models.training.recipe import Schedule

FIXRES_RATE = 0.01
"""Rate of the last phase at the test resolution, as a share of the peak. Touvron et al. 2019 take 0.001 of 0.2."""


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


def image_side(epoch: int, epochs: int, start: int, end: int) -> int:
    """Shorter side in pixels in an epoch: linear from `start` to `end`, in multiples of 4 before the last epoch.

    A size that does not change is taken as it is.
    """
    if start == end or epoch >= epochs - 1:
        return end
    side = start + (end - start) * epoch / (epochs - 1)
    return max(4, 4 * round(side / 4))
