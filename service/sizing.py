"""How many processors compute a version, and how large its batches are: measured when it is loaded, unless it is said.

Both are chosen for the service as a whole, in which HTTP and decoding need processors too, and not for the executor
alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from models.preprocess import UInt8Array
from models.tuning import smallest_worthwhile
from service.executors import Executor, compute

_BATCHES = (1, 2, 4, 8, 16, 32)
_SLOW = 0.25
"""Seconds a batch; larger ones are not tried, or starting would take long."""
_RUNS = 4
_OUTPUTS = frozenset({"logits", "probabilities"})
_NO_LOSS = 1.1


def choose_max_batch(executor: Executor, images: UInt8Array) -> int:
    """The smallest batch that is worthwhile.

    Args:
        executor: that will serve.
        images: uint8 [n, H, W, C].
    """
    seconds: dict[int, float] = {}
    for size in executor.buckets or _BATCHES:
        seconds[size] = _seconds(executor, images[np.arange(size) % len(images)])
        if seconds[size] > _SLOW:
            break
    return smallest_worthwhile(seconds)


def load_with_threads(
    load: Callable[[int], list[Executor]], cpus: int, image: UInt8Array
) -> tuple[list[Executor], int]:
    """Executors on all processors, or on one fewer where a single image takes no longer on those.

    A small network gains nothing from the last processor, and what it does there HTTP and decoding have to wait for.

    Args:
        load: gives executors that use so many processors.
        cpus: all of them.
        image: uint8 [1, H, W, C].

    Returns:
        The executors, and the number of processors that they use.
    """
    loaded = load(cpus)
    if cpus == 1 or len(loaded) > 1 or loaded[0].device != "cpu" or not loaded[0].computes:
        return loaded, cpus
    try:
        fewer = load(cpus - 1)
    except BaseException:
        _close(loaded)
        raise
    if _seconds(fewer[0], image) > _NO_LOSS * _seconds(loaded[0], image):
        _close(fewer)
        return loaded, cpus
    _close(loaded)
    return fewer, cpus - 1


def _seconds(executor: Executor, images: UInt8Array) -> float:
    """Of the fastest of a few runs; the first of a shape plans its memory."""
    taken: list[float] = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        compute(executor, images, _OUTPUTS)
        taken.append(time.perf_counter() - started)
        if len(taken) > 1 and taken[-1] > _SLOW:
            break
    return min(taken)


def _close(executors: Sequence[Executor]) -> None:
    for executor in executors:
        executor.close()
