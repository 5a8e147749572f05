"""The end of the service, for streams: they would not end by themselves."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc.aio import EOF


class Draining:
    """Ends the waiting of streams when the service ends. For the event loop only."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._reading = set[asyncio.Task[Any]]()

    @property
    def begun(self) -> bool:
        """Whether the service ends."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Have all streams end after the requests that they have received."""
        self._begun.set()
        for task in self._reading:
            task.cancel()

    async def read(self, context: Any) -> Any:
        """The next message of a stream; EOF if there is none, or if the service ends."""
        if self.begun:
            return EOF
        task = asyncio.current_task()
        assert task is not None
        self._reading.add(task)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if not self._begun.is_set() or task.uncancel():
                raise
            return EOF
        finally:
            self._reading.discard(task)

    async def wait(self, seconds: float) -> None:
        """Wait, at most until the service ends."""
        try:
            async with asyncio.timeout(seconds):
                await self._begun.wait()
        except TimeoutError:
            pass
