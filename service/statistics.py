"""What one version has computed since it was loaded, as the V2 protocol counts it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock

from models.preprocess import UInt8Array
from service.executors import Executor, Float32Array, Wrapper


@dataclass(slots=True)
class Duration:
    """How often something was done, and the time that it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(seconds * 1e9)


@dataclass(slots=True)
class Statistics:
    """Counts of one version. Batches are counted by the engine's threads, requests on the event loop."""

    inferences: int = 0
    """Images answered."""
    executions: int = 0
    """Batches computed."""
    last_inference: int = 0
    """Milliseconds since 1970."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    decode: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)
    """By the number of images."""
    _batch: Lock = field(default_factory=Lock, repr=False)

    def batch(self, size: int, seconds: float) -> None:
        """A batch was computed."""
        with self._batch:
            self.executions += 1
            self.batches.setdefault(size, Duration()).add(seconds)

    def succeeded(self, images: int, decode: float, queue: float, infer: float, total: float) -> None:
        """A request was answered; all but the first in seconds."""
        self.inferences += images
        self.last_inference = round(time.time() * 1000)
        self.success.add(total)
        self.queue.add(queue)
        self.decode.add(decode)
        self.infer.add(infer)

    def failed(self, total: float) -> None:
        """A request was given up after that many seconds."""
        self.fail.add(total)


class CountedExecutor(Wrapper):
    """An executor that counts its batches."""

    def __init__(self, executor: Executor, statistics: Statistics) -> None:
        super().__init__(executor)
        self._statistics = statistics

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        started = time.perf_counter()
        computed = super().run(images, outputs)
        self._statistics.batch(len(images), time.perf_counter() - started)
        return computed
