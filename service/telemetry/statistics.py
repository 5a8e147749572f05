"""Counts of one version since it was loaded, in the form of the V2 protocol."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """Number of events and their total time."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one event."""
        self.count += 1
        self.seconds += seconds

    @property
    def ns(self) -> int:
        """Total time in nanoseconds."""
        return round(self.seconds * 1e9)


@dataclass(slots=True)
class Statistics:
    """Counts of one version, written on the event loop."""

    inferences: int = 0
    """Images answered."""
    executions: int = 0
    """Batches computed."""
    last_inference: float = 0.0
    """Time of the last answer, in seconds since 1970."""
    last_used: float = 0.0
    """The same time in `time.monotonic` seconds: a clock that is set does not change it."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    decode: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    failed_batches: int = 0
    """Batches that the executor could not compute."""
    batches: dict[int, Duration] = field(default_factory=dict)
    """Batches by number of images."""

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.executions += 1
        if size not in self.batches:
            self.batches[size] = Duration()
        self.batches[size].add(seconds)

    def succeeded(self, images: int, decode: float, queue: float, infer: float, total: float) -> None:
        """Count a request that was answered, with its times in seconds."""
        self.inferences += images
        self.last_inference, self.last_used = time.time(), time.monotonic()
        self.success.add(total)
        self.queue.add(queue)
        self.decode.add(decode)
        self.infer.add(infer)

    def failed(self, total: float) -> None:
        """Count a request that failed after `total` seconds."""
        self.fail.add(total)
