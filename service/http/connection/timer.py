"""A timer of a connection, which is set and unset for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timer:
    """Calls a function unless it is stopped in time.

    Args:
        loop: the event loop.
        seconds: time from the start.
        expired: the function.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, expired: Callable[[], None]) -> None:
        self.seconds = seconds
        self._loop = loop
        self._expired = expired
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, unless the timer runs already."""
        if self._handle is None:
            self._handle = self._loop.call_later(self.seconds, self._expired)

    def stop(self) -> None:
        """Stop, if the timer runs."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
