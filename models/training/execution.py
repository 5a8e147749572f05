"""How a training run is computed and watched, apart from its recipe."""

from __future__ import annotations

from dataclasses import dataclass

from models.training.distributed.processes import ALONE, Processes


@dataclass(frozen=True)
class Execution:
    """How a run is computed and watched; the result does not depend on it, except on the number of processes."""

    processes: Processes = ALONE
    """Those that train together, from `join`."""
    data_workers: int | None = None
    """Number of processes that read images, in each process of the training; see `default_workers`."""
    cache: bool = False
    """Decode the training images once, and keep them in memory."""
    trackers: tuple[str, ...] = ()
    """Trackers that get the figures of each epoch, from `choose_trackers`."""


DEFAULT = Execution()
