"""The condition that wakes the last first, beside the standard library's where they agree."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from service.engine.lifo_condition import LifoCondition
from tests.support.service import TIMEOUT

KINDS: dict[str, Callable[[], Any]] = {
    "ours": lambda: LifoCondition(threading.Lock()),
    "the library's": lambda: threading.Condition(threading.Lock()),
}


class Stage:
    """Threads that begin to wait one after the other, and say when they are awake."""

    def __init__(self, condition: Any, timeout: float | None = None) -> None:
        self.condition = condition
        self.awake: SimpleQueue[int] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        self._timeout = timeout

    def wait(self, count: int) -> None:
        for number in range(count):
            begun = threading.Event()
            thread = threading.Thread(target=self._wait, args=(number, begun), daemon=True)
            self.threads.append(thread)
            thread.start()
            assert begun.wait(TIMEOUT)
            with self.condition:  # only once it waits can this be entered
                pass

    def _wait(self, number: int, begun: threading.Event) -> None:
        with self.condition:
            begun.set()
            self.condition.wait(self._timeout)
        self.awake.put(number)

    def notify(self, name: str = "notify") -> None:
        with self.condition:
            getattr(self.condition, name)()

    def next(self) -> int:
        return self.awake.get(timeout=TIMEOUT)

    def end(self) -> None:
        for thread in self.threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def test_the_last_is_woken_first() -> None:
    stage = Stage(KINDS["ours"]())
    stage.wait(3)
    woken = []
    for _ in range(3):
        stage.notify()
        woken.append(stage.next())
    assert woken == [2, 1, 0]
    stage.end()


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_woken(kind: str) -> None:
    stage = Stage(KINDS[kind]())
    stage.wait(3)
    stage.notify("notify_all")
    assert sorted(stage.next() for _ in range(3)) == [0, 1, 2]
    stage.end()


@pytest.mark.parametrize("kind", KINDS)
def test_a_notification_is_for_those_who_wait_already(kind: str) -> None:
    stage = Stage(KINDS[kind]())
    stage.notify()
    stage.wait(1)
    assert stage.awake.empty()
    stage.notify()
    assert stage.next() == 0
    stage.end()


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_waited_long_enough_goes_on_and_is_not_woken_again(kind: str) -> None:
    condition = KINDS[kind]()
    impatient = Stage(condition, timeout=0.001)
    impatient.wait(1)
    assert impatient.next() == 0
    patient = Stage(condition)
    patient.wait(1)
    patient.notify()  # a bell that nobody hears would take it
    assert patient.next() == 0
    impatient.end()
    patient.end()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_left_after_an_error(kind: str) -> None:
    condition = KINDS[kind]()
    with pytest.raises(KeyError), condition:
        raise KeyError
    with condition:
        condition.notify()
