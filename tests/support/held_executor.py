"""An executor that a test can hold in the middle of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from threading import Semaphore

import numpy as np

from models.imaging.preprocess import UInt8Array
from service.executors.base import Float32Array
from tests.support.service import TIMEOUT

BROKEN = 666
"""An image that makes its batch fail."""


def image(value: int) -> UInt8Array:
    """A number as an image of two pixels, uint8 [1, 2, 1]."""
    return np.array(divmod(value, 256), np.uint8).reshape(1, 2, 1)


class HeldExecutor:
    """Gives value + 0.5 as logit and probability, and -value as embedding, once the test releases the batch."""

    computes = False
    device = "held"
    concurrent_batches = 1
    buckets: Sequence[int] = ()

    def __init__(self, started: Semaphore | None = None) -> None:
        """Share `started` among executors to wait for a batch on any of them."""
        self.batches: list[list[int]] = []
        """Values of the images that were computed, batch for batch."""
        self.closed_after: int | None = None
        """Batches that had been computed when it was closed."""
        self.on_run: Callable[[], object] = lambda: None
        self._started = started or Semaphore(0)
        self._released = Semaphore(0)

    def prepare(self, max_batch: int) -> None:
        """There is nothing to be made."""

    def gather(self, images: Sequence[UInt8Array]) -> UInt8Array:
        return np.stack(images)

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        values = gathered.reshape(-1, 2).astype(np.float32) @ np.array([[256.0], [1.0]], np.float32)
        self.batches.append([int(value) for value in values[:, 0]])
        self._started.release()
        assert self._released.acquire(timeout=TIMEOUT)
        self.on_run()
        if BROKEN in self.batches[-1]:
            raise RuntimeError("no kernel for this")
        computed = {"logits": values + 0.5, "probabilities": values + 0.5, "embedding": -values}
        return {name: computed[name] for name in outputs}

    def close(self) -> None:
        self.closed_after = len(self.batches)

    async def started(self) -> None:
        """Wait until the next batch is in `run`."""
        assert await asyncio.to_thread(self._started.acquire, timeout=TIMEOUT)

    def release(self, batches: int = 1) -> None:
        """Let that many batches through."""
        self._released.release(batches)
