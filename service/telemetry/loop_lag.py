"""Measures how late the event loop runs what is due: the time for which one callback keeps all connections waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.telemetry.instruments import Buckets

INTERVAL = 0.02
"""Seconds between two measurements: 50 timers per second cost about 0.1 % of a CPU."""


class LoopLagMonitor:
    """Records the lag of an event loop in a histogram, until it is closed.

    Args:
        loop: the event loop that runs.
        lag_seconds: takes the lag in seconds.
        beat: called after each measurement, such as `Metrics.beat` with several processes.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lag_seconds: Buckets, beat: Callable[[], None] | None = None
    ) -> None:
        self._loop = loop
        self._lag_seconds = lag_seconds
        self._beat = beat
        self._schedule()

    def close(self) -> None:
        """End the measurements."""
        self._timer.cancel()

    def _schedule(self) -> None:
        self._due = self._loop.time() + INTERVAL
        self._timer = self._loop.call_at(self._due, self._measure)

    def _measure(self) -> None:
        # Not `self._timer.when()`: if this thread waited for a CPU meanwhile, uvloop returns a handle without it.
        self._lag_seconds.observe(max(0.0, self._loop.time() - self._due))
        self._schedule()  # first: an error of `beat` must not end the measurements
        if self._beat is not None:
            self._beat()
