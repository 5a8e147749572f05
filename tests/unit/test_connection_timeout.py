"""Time limits that begin and end again, over a clock that is set."""

from __future__ import annotations

from typing import Any

import pytest

from service.http.connection_timeout import ConnectionTimeout
from tests.support.clock import Timers


@pytest.fixture
def timers() -> Any:
    return Timers()


@pytest.fixture
def lost() -> list[float]:
    return []


@pytest.fixture
def patience(timers: Any, lost: list[float]) -> ConnectionTimeout:
    return ConnectionTimeout(timers, 5.0, lambda: lost.append(timers.now))


def test_it_is_lost_once_the_time_is_over(timers: Timers, patience: ConnectionTimeout, lost: list[float]) -> None:
    patience.begin()
    timers.pass_until(1004.9)
    assert not lost
    timers.pass_until(1020.0)
    assert lost == [1005.0]


def test_to_begin_again_changes_nothing_and_after_an_end_begins_anew(
    timers: Timers, patience: ConnectionTimeout, lost: list[float]
) -> None:
    patience.begin()
    timers.pass_until(1004.0)
    patience.begin()
    timers.pass_until(1004.5)
    patience.end()
    patience.begin()
    timers.pass_until(1009.4)
    assert not lost
    timers.pass_until(1009.5)
    assert lost == [1009.5]


def test_what_has_ended_is_not_lost(timers: Timers, patience: ConnectionTimeout, lost: list[float]) -> None:
    patience.begin()
    patience.end()
    timers.pass_until(1100.0)
    patience.begin()
    timers.pass_until(1104.9)
    assert not lost
    timers.pass_until(1105.0)
    assert lost == [1105.0]


def test_one_timer_however_often_it_begins(timers: Timers, patience: ConnectionTimeout, lost: list[float]) -> None:
    for _ in range(1000):
        patience.begin()
        assert len(timers.set) == 1
        patience.end()
        timers.pass_until(timers.now + 0.01)
    assert not lost


def test_nothing_is_left_of_it_when_it_is_closed(
    timers: Timers, patience: ConnectionTimeout, lost: list[float]
) -> None:
    patience.begin()
    patience.close()
    assert not timers.set
    timers.pass_until(2000.0)
    assert not lost
