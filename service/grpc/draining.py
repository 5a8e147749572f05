"""The end of the service, for streams: they would not end by themselves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from grpc.aio import EOF

LINGER_SECONDS = 2.0
"""Time in which a client may send the rest of a stream that ends with an error."""


SERVICE_ENDS = object()
"""In place of a message."""


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
        """The next message of a stream; EOF if there is none, or SERVICE_ENDS."""
        if self.begun:
            return SERVICE_ENDS
        task = asyncio.current_task()
        assert task is not None
        self._reading.add(task)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if not self._begun.is_set() or task.uncancel():
                raise
            return SERVICE_ENDS
        finally:
            self._reading.discard(task)

    async def linger(self, context: Any) -> None:
        """Receive the rest of a stream that ends with an error: some clients report a failure to send instead of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self.read(context) not in (EOF, SERVICE_ENDS):
                    pass

    async def wait(self, seconds: float) -> None:
        """Wait, at most until the service ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun.wait()
