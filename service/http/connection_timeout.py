"""Time limits that begin and end with every request.

A timer that is set stays, and looks at what is context when it rings: to set and cancel one for every request would cost
as much as to read its headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ConnectionTimeout:
    """A time limit that is set while a client owes something.

    Args:
        loop: of the connection.
        seconds: that it lasts.
        lost: called when they are over.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, lost: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._lost = lost
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if self._until is None:
            self._until = self._loop.time() + self._seconds
            if self._timer is None:
                self._timer = self._loop.call_at(self._until, self._ring)

    def end(self) -> None:
        self._until = None

    def close(self) -> None:
        """Nothing is owed any more."""
        self._until = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._until is None:
            return
        if self._until <= self._loop.time():
            self._until = None
            self._lost()
        else:
            self._timer = self._loop.call_at(self._until, self._ring)
