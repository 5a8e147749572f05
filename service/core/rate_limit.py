"""Limits the requests per second of each client."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from service.core.errors import TooManyRequests

_MANY_CLIENTS = 10_000


class Rates(Protocol):
    """Counts the requests of clients, in this process or for all workers together."""

    async def take(self, client: str) -> None:
        """Count one request.

        Raises:
            TooManyRequests: the client is above its rate; this request is not counted.
        """
        ...


class RateLimiter:
    """Generic cell rate algorithm: stores per client only the time at which its whole burst is available again.

    Args:
        rate: requests per second.
        burst: requests that may come at once after a pause.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._refilled_at: dict[str, float] = {}
        self._many = _MANY_CLIENTS

    async def take(self, client: str) -> None:
        """As `Rates.take`."""
        now = self._clock()
        refilled_at = max(now, self._refilled_at.get(client, now)) + 1 / self._rate
        wait = refilled_at - now - self._burst / self._rate
        if wait > 1e-9:  # rounding
            raise TooManyRequests(self._rate, wait)
        self._refilled_at[client] = refilled_at
        if len(self._refilled_at) > self._many:
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop clients whose whole burst is available: they are the same as unknown clients."""
        self._refilled_at = {client: time for client, time in self._refilled_at.items() if time > now}
        self._many = max(_MANY_CLIENTS, 2 * len(self._refilled_at))
