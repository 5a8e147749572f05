"""How processors are shared out among executors: all of them for one batch, or one for each of several batches.

Threads that compute a small image together wait for one another longer than they compute. Executors of one thread each
compute different batches instead, and wait for nobody.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from models.imaging.preprocess import UInt8Array
from service.engine.sizing import batch_seconds
from service.executors.base import Executor, close_all, closed_on_error

SMALL = 0.002
"""Seconds an image, below which several are computed at the same time."""
MAX_INSTANCES = 8
"""Executors of a model on the processors of a machine: one event loop has no work for more."""


class Load(Protocol):
    """Loads executors."""

    def __call__(self, threads: int, copies: int, *, alone: bool = False) -> list[Executor]:
        """So many for each device.

        Args:
            threads: of each.
            copies: executors for each device.
            alone: whether nothing else uses the processors while they compute.

        Raises:
            Exception: nothing is left loaded.
        """
        ...


def arrange(
    load: Load, images: UInt8Array, threads: int | None, copies: int | None, cpus: int
) -> tuple[list[Executor], int]:
    """Load executors as they use the processors best, as far as that is not said.

    Args:
        load: loads them.
        images: uint8 [n, H, W, C], to try them with.
        threads: of each executor.
        copies: executors for each device.
        cpus: processors that there are.

    Returns:
        The executors, and the threads of each.

    Raises:
        Exception: what `load` raises, or the executor that is tried; nothing is left loaded.
    """
    tried = (threads or cpus, copies or 1)
    loaded = load(*tried)
    said = threads is not None and copies is not None
    if said or loaded[0].device != "cpu" or not loaded[0].computes:
        return loaded, tried[0]
    with closed_on_error(loaded):
        small = batch_seconds(loaded[0], images[:1]) < SMALL
    threads_of_each = threads or (1 if small else cpus)
    count = copies or (max(1, min(cpus // threads_of_each, MAX_INSTANCES)) if small else 1)
    if (threads_of_each, count) != tried:
        close_all(loaded)
        loaded = load(threads_of_each, count)
    return loaded, threads_of_each


def own_processors(executors: Sequence[Executor], threads: int) -> Sequence[int]:
    """The processor that each executor is to stay on: where they are as many as there are processors, of one thread
    each; otherwise none.

    Left to itself, the system lets two of them take turns on one processor while another is idle, for 5 % of the time.
    Where a container may use more processors than it gets time of, all containers would take the same ones.
    """
    processors = sorted(os.sched_getaffinity(0))
    apart = len(executors) > 1 and threads == 1 and executors[0].device == "cpu"
    return processors if apart and len(executors) == len(processors) else ()
