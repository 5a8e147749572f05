"""Requests a caller and second."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.core.errors import TooManyRequests

_MANY_CALLERS = 10_000


class RateLimiter:
    """Generic cell rate algorithm: of a caller only the time is kept at which its allowance is whole again.

    Args:
        rate: requests a second.
        burst: requests that may come at once after a pause.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._whole_at: dict[str, float] = {}
        self._many = _MANY_CALLERS

    def take(self, caller: str) -> None:
        """Count one request.

        Raises:
            TooManyRequests: the caller has none left; this one is not counted.
        """
        now = self._clock()
        whole_at = max(now, self._whole_at.get(caller, now)) + 1 / self._rate
        wait = whole_at - now - self._burst / self._rate
        if wait > 1e-9:  # rounding
            raise TooManyRequests(self._rate, wait)
        self._whole_at[caller] = whole_at
        if len(self._whole_at) > self._many:
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop callers who have their whole allowance, and are as good as new ones."""
        self._whole_at = {caller: whole_at for caller, whole_at in self._whole_at.items() if whole_at > now}
        self._many = max(_MANY_CALLERS, 2 * len(self._whole_at))
