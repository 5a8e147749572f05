"""An engine that a test can hold before each batch."""

from __future__ import annotations

import asyncio
from threading import Semaphore

import pytest

from models.imaging.preprocess import UInt8Array
from service.engine.batch_queue import QueuedRequest
from service.engine.engine import Engine
from service.executors.base import Float32Array
from tests.support.service import TIMEOUT


class Gate:
    """Holds the engine before each batch until the test releases it."""

    def __init__(self, engine: Engine, patch: pytest.MonkeyPatch) -> None:
        self.images = 0
        self._run = engine.executors[0].run
        self._started = Semaphore(0)
        self._open = Semaphore(0)
        patch.setattr(engine.executors[0], "run", self._held)
        self._queue = engine._queue
        self._put = engine._queue.put
        self._arrived = asyncio.Event()
        patch.setattr(engine._queue, "put", self._put_and_notify)

    def _put_and_notify(self, request: QueuedRequest) -> None:
        self._put(request)
        self._arrived.set()

    def _held(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        self.images += len(images)
        self._started.release()
        assert self._open.acquire(timeout=TIMEOUT)
        return self._run(images, outputs)

    async def started(self) -> None:
        assert await asyncio.to_thread(self._started.acquire, timeout=TIMEOUT)

    async def queued(self, images: int) -> None:
        """Wait until so many images are in the queue."""
        async with asyncio.timeout(TIMEOUT):
            while len(self._queue) < images:
                self._arrived.clear()
                await self._arrived.wait()

    def let_through(self, batches: int = 1) -> None:
        self._open.release(batches)
