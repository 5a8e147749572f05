"""Detects batches that do not end, such as those of a stuck driver. Nothing can interrupt them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

log = logging.getLogger(__name__)

MIN_STALL_SECONDS = 10.0
_STALL_FACTOR = 20


def stall_seconds(seconds_per_image: float, max_batch: int) -> float:
    """Seconds after which a batch is stalled: 20 times the time of the largest one, and at least 10 s.

    Args:
        seconds_per_image: time of an image in a large batch, measured when the model was loaded.
        max_batch: most images per batch.
    """
    return max(MIN_STALL_SECONDS, _STALL_FACTOR * seconds_per_image * max_batch)


@dataclass(eq=False, slots=True)
class BatchClock:
    """The batch that a thread computes. Its thread sets the start, another one reads it."""

    device: str
    """Name of the device."""
    single_image: bool = False
    """Whether the thread takes only single images, so that the others do not need it."""
    started: float = math.inf
    """`time.monotonic` seconds; infinity between batches."""


class StallDetector:
    """Finds the threads of a model whose batch is stalled.

    Args:
        name: name of the model, for logs.
        seconds: time after which a batch is stalled.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.reasons: list[str] = []
        """A sentence per device with a stalled batch."""
        self.all_stalled = False
        """Whether no thread is left to compute the next batch."""
        self._name = name
        self._seconds = seconds
        self._clocks: set[BatchClock] = set()

    def add(self, clock: BatchClock) -> None:
        """Watch a thread that begins."""
        self._clocks.add(clock)

    def remove(self, clock: BatchClock) -> None:
        """Stop to watch a thread that ends."""
        self._clocks.discard(clock)

    def is_stalled(self, clock: BatchClock, now: float) -> bool:
        """Whether a batch is stalled at a time in `time.monotonic` seconds."""
        return now - clock.started > self._seconds

    def check(self, now: float) -> None:
        """Update the reasons, and log if a device stalls or computes again."""
        clocks = list(self._clocks)
        stalled = [clock for clock in clocks if self.is_stalled(clock, now)]
        needed = [clock for clock in clocks if not clock.single_image]
        self.all_stalled = bool(needed) and all(clock in stalled for clock in needed)
        devices = sorted({clock.device for clock in stalled})
        reasons = [f"{device} has not finished a batch within {self._seconds:.0f} s" for device in devices]
        if reasons != self.reasons:
            if reasons:
                log.error("model %s: %s", self._name, "; ".join(reasons))
            else:
                log.warning("model %s: all batches are finished again", self._name)
        self.reasons = reasons
