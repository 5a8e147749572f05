"""A clock that tests set, and an event loop's timers over one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Timer:
    """Of `Timers.call_at`."""

    def __init__(self, timers: Timers, when: float, call: Callable[[], object]) -> None:
        self._timers, self.when, self.call = timers, when, call

    def cancel(self) -> None:
        """As asyncio's: does nothing once it has rung."""
        if self in self._timers.set:
            self._timers.set.remove(self)


class Timers:
    """The clock and the timers of an event loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.set: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], object]) -> Any:
        self.set.append(Timer(self, when, call))
        return self.set[-1]

    def pass_until(self, then: float) -> None:
        """Have everything ring that is due until then, in its order."""
        while due := sorted((timer for timer in self.set if timer.when <= then), key=lambda timer: timer.when):
            self.now = max(self.now, due[0].when)
            self.set.remove(due[0])
            due[0].call()
        self.now = then
