"""Deadlines of many requests with one timer, over a clock that is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.deadlines import Deadlines
from tests.support.clock import Timers


class Late(Exception):
    """What is not done in time fails with this."""


def play(monkeypatch: pytest.MonkeyPatch, scene: Callable[[Timers, Deadlines, Any], None]) -> None:
    """Within an event loop, for its futures."""

    async def run() -> None:
        timers: Any = Timers()
        monkeypatch.setattr("service.inference.deadlines.time.monotonic", timers.time)
        scene(timers, Deadlines(timers, Late), asyncio.get_running_loop().create_future)

    asyncio.run(run())


def test_each_fails_at_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(timers: Timers, deadlines: Deadlines, new: Callable[[], asyncio.Future[None]]) -> None:
        second, first, third = (new() for _ in range(3))
        for future, deadline in ((second, 1002.0), (first, 1001.0), (third, 1003.0)):
            deadlines.watch(future, deadline)
        timers.pass_until(1000.9)
        assert not first.done()
        timers.pass_until(1001.0)
        assert isinstance(first.exception(), Late)
        assert not second.done()
        timers.pass_until(1002.5)
        assert isinstance(second.exception(), Late)
        assert not third.done()
        timers.pass_until(1003.0)
        assert isinstance(third.exception(), Late)
        assert not timers.set

    play(monkeypatch, scene)


def test_what_is_done_in_time_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(timers: Timers, deadlines: Deadlines, new: Callable[[], asyncio.Future[None]]) -> None:
        done, forgotten, late = (new() for _ in range(3))
        for future in (done, forgotten, late):
            deadlines.watch(future, 1001.0)
        done.set_result(None)
        deadlines.forget(forgotten)
        deadlines.forget(forgotten)
        timers.pass_until(1001.0)
        assert done.result() is None
        assert not forgotten.done()
        assert isinstance(late.exception(), Late)

    play(monkeypatch, scene)


def test_a_deadline_in_the_past_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def scene(timers: Timers, deadlines: Deadlines, new: Callable[[], asyncio.Future[None]]) -> None:
        late = new()
        deadlines.watch(late, 999.0)
        timers.pass_until(1000.0)
        assert isinstance(late.exception(), Late)

    play(monkeypatch, scene)


REQUESTS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)), max_size=30)
"""When each comes, and how long after that its answer and its deadline do."""


@given(REQUESTS)
def test_as_with_a_timer_for_each(requests: Sequence[tuple[int, int, int]]) -> None:
    def scene(timers: Timers, deadlines: Deadlines, new: Callable[[], asyncio.Future[None]]) -> None:
        futures = [new() for _ in requests]
        # Whole numbers are when answers come, so that none comes at a deadline.
        events = sorted(
            [(1000 + come, 0, index) for index, (come, _, _) in enumerate(requests)]
            + [(1000 + come + answer, 1, index) for index, (come, answer, _) in enumerate(requests)]
        )
        for when, answered, index in events:
            timers.pass_until(when)
            if not answered:
                deadlines.watch(futures[index], when + requests[index][2] - 0.5)
                assert len(timers.set) == 1
            elif not futures[index].done():
                futures[index].set_result(None)
                deadlines.forget(futures[index])
        timers.pass_until(2000.0)
        late = [isinstance(future.exception(), Late) for future in futures]
        assert late == [deadline - 0.5 < answer for _, answer, deadline in requests]

    with pytest.MonkeyPatch.context() as monkeypatch:
        play(monkeypatch, scene)
