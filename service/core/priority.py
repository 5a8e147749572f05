"""Two priorities: interactive work is served before bulk work, and bulk work always gets a share."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum


class Priority(StrEnum):
    """Priority of a request."""

    interactive = "interactive"
    bulk = "bulk"


SHARE = {Priority.interactive: 0.875, Priority.bulk: 0.125}
"""Share of the places while both wait. The documented share of bulk is a tenth; an eighth is exact in binary, and
leaves a margin."""


class BulkShare:
    """Counts the places that bulk work gets although interactive work waits."""

    def __init__(self) -> None:
        self._owed = 0.0

    def places(self, room: int, waiting: int) -> int:
        """How many of the next `room` places are for bulk work, of which `waiting` wait."""
        if waiting:
            self._owed += SHARE[Priority.bulk] * room
        return min(int(self._owed), waiting)

    def took(self, places: int, waiting: int) -> None:
        """Record that bulk work got `places`, with those that interactive work left free; `waiting` still wait."""
        self._owed = max(0.0, self._owed - places) if waiting else 0.0


class PrioritySemaphore:
    """A semaphore that serves interactive waiters first. For the event loop only.

    Args:
        places: number of holders at the same time.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._interactive: deque[asyncio.Future[None]] = deque()
        self._bulk: deque[asyncio.Future[None]] = deque()
        self._bulk_share = BulkShare()

    async def acquire(self, priority: Priority) -> None:
        """Wait for a place. The caller must release it."""
        if self._free:  # no waiter is before this one
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        (self._interactive if priority is Priority.interactive else self._bulk).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came together with the cancellation
                self.release()
            raise

    def release(self) -> None:
        """Give the place to the next waiter."""
        while self._interactive or self._bulk:
            turn = self._next()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _next(self) -> asyncio.Future[None]:
        if self._bulk_share.places(1, len(self._bulk)) or not self._interactive:
            turn = self._bulk.popleft()
            self._bulk_share.took(1, len(self._bulk))
            return turn
        return self._interactive.popleft()
