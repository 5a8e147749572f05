"""How large a version's batches are: measured when it is loaded, unless it is said."""

from __future__ import annotations

import time

import numpy as np

from models.imaging.preprocess import UInt8Array
from models.runtime.tuning import smallest_worthwhile
from service.executors.base import Executor, compute

_BATCHES = (1, 2, 4, 8, 16, 32)
_SLOW = 0.25
"""Seconds a batch; larger ones are not tried, or starting would take long."""
_RUNS = 4
_OUTPUTS = frozenset({"logits", "probabilities"})


def choose_max_batch(executor: Executor, images: UInt8Array) -> int:
    """The smallest batch that is worthwhile.

    Args:
        executor: that will serve.
        images: uint8 [n, H, W, C].
    """
    seconds: dict[int, float] = {}
    for size in executor.buckets or _BATCHES:
        executor.prepare(size)  # as it will be served
        seconds[size] = batch_seconds(executor, images[np.arange(size) % len(images)])
        if seconds[size] > _SLOW:
            break
    return smallest_worthwhile(seconds)


def batch_seconds(executor: Executor, images: UInt8Array) -> float:
    """Seconds of the fastest of a few runs of one batch, uint8 [n, H, W, C]; the first of a shape plans its memory."""
    taken: list[float] = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        compute(executor, images, _OUTPUTS)
        taken.append(time.perf_counter() - started)
        if len(taken) > 1 and taken[-1] > _SLOW:
            break
    return min(taken)
