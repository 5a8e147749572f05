"""The lag of the event loop, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from service.telemetry.instruments import Buckets
from service.telemetry.loop_lag import INTERVAL, LoopLagMonitor


class Timer:
    """Without `when`: for a time that has passed, `call_at` of uvloop returns a handle that does not have it."""

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due, self.callback, self.cancelled = due, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """One timer, which runs when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timer = Timer(0.0, lambda: None)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timer = Timer(when, callback)
        return self.timer

    def run_at(self, now: float) -> None:
        self.now = now
        self.timer.callback()


def test_each_interval_records_by_how_much_the_loop_is_late() -> None:
    loop, lag = Loop(), Buckets((0.01, 0.1, 1.0))
    monitor = LoopLagMonitor(cast(asyncio.AbstractEventLoop, loop), lag)
    assert loop.timer.due == 100.0 + INTERVAL
    loop.run_at(100.0 + INTERVAL)
    loop.run_at(loop.timer.due + 0.5)
    assert lag.counts == [1, 0, 1]
    assert lag.sum == pytest.approx(0.5)
    assert loop.timer.due == loop.now + INTERVAL
    monitor.close()
    assert loop.timer.cancelled


def test_each_interval_beats_after_its_measurement() -> None:
    loop, lag, beats = Loop(), Buckets((0.01, 0.1, 1.0)), list[int]()

    def beat() -> None:
        beats.append(sum(lag.counts))
        if len(beats) == 2:
            raise RuntimeError("of a gauge")

    LoopLagMonitor(cast(asyncio.AbstractEventLoop, loop), lag, beat)
    loop.run_at(loop.timer.due)
    with pytest.raises(RuntimeError):
        loop.run_at(loop.timer.due)
    loop.run_at(loop.timer.due)
    assert beats == [1, 2, 3]
