"""Deadlines of all requests that wait, with one timer: one for each costs more than to queue and to answer an image."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any


class Deadlines:
    """Fails futures that are not done in time.

    Args:
        loop: that the futures belong to.
        late: gives what they fail with.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], Exception]) -> None:
        self._loop = loop
        self._late = late
        self._waiting: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        """Never later than the first deadline; what is done in time leaves it where it is."""

    def watch(self, future: asyncio.Future[Any], deadline: float) -> None:
        """From now on, until `forget`.

        Args:
            future: to fail.
            deadline: `time.monotonic` seconds.
        """
        self._waiting[future] = deadline
        if deadline < self._rings_at:
            self._set(deadline)

    def forget(self, future: asyncio.Future[Any]) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(future, None)

    def _set(self, rings_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = rings_at
        self._timer = None if rings_at == math.inf else self._loop.call_at(rings_at, self._ring)

    def _ring(self) -> None:
        now = time.monotonic()
        for future in [future for future, deadline in self._waiting.items() if deadline <= now]:
            del self._waiting[future]
            if not future.done():
                future.set_exception(self._late())
        self._set(min(self._waiting.values(), default=math.inf))
