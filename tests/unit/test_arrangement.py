"""How processors are shared out among executors: by how long an image takes, and never against what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.engine.arrangement import arrange, own_processors
from service.executors.base import Executor
from tests.support.timed import Clock, TimedExecutor

SLOW, QUICK = 0.020, 0.0005
IMAGES = np.zeros((3, 1, 1, 1), np.uint8)


class OutOfMemory(TimedExecutor):
    def run(self, images: Any, outputs: frozenset[str]) -> dict[str, Any]:
        raise RuntimeError("out of memory")


class Bench:
    """Loads executors that take a number of seconds for an image, or fail, and remembers them."""

    def __init__(self, seconds: float | None, device: str = "cpu", computes: bool = True) -> None:
        self.clock = Clock()
        self.loaded: list[TimedExecutor] = []
        self._make = OutOfMemory if seconds is None else TimedExecutor
        self._table = {} if seconds is None else {1: seconds}
        self._kind = (device, computes)

    def load(self, threads: int, copies: int, *, alone: bool = False) -> list[Executor]:
        assert not alone
        new = [self._make(self._table, self.clock, *self._kind, threads) for _ in range(copies)]
        self.loaded += new
        return [*new]


def arranged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, threads: int | None, copies: int | None, cpus: int
) -> tuple[int, int]:
    """Threads of each executor and executors, of which the others are closed."""
    bench.clock.install(monkeypatch)
    executors, each = arrange(bench.load, IMAGES, threads, copies, cpus)
    left = [executor for executor in bench.loaded if not executor.closed]
    assert left == executors
    assert {executor.threads for executor in left} == {each}
    return each, len(left)


@pytest.mark.parametrize(
    ("seconds", "threads", "copies", "cpus", "expected"),
    [
        (SLOW, None, None, 4, (4, 1)),
        (QUICK, None, None, 4, (1, 4)),
        (QUICK, None, None, 1, (1, 1)),
        (QUICK, None, None, 64, (1, 8)),
        (QUICK, 2, None, 4, (2, 2)),
        (QUICK, 3, None, 4, (3, 1)),
        (QUICK, 6, None, 4, (6, 1)),
        (SLOW, 1, None, 4, (1, 1)),
        (QUICK, None, 3, 4, (1, 3)),
        (SLOW, None, 2, 4, (4, 2)),
        (SLOW, 2, 2, 4, (2, 2)),
        (QUICK, 1, 1, 4, (1, 1)),
    ],
)
def test_on_processors(
    seconds: float,
    threads: int | None,
    copies: int | None,
    cpus: int,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert arranged(Bench(seconds), monkeypatch, threads, copies, cpus) == expected


@pytest.mark.parametrize("bench", [Bench(QUICK, "cuda:0"), Bench(QUICK, computes=False)])
def test_what_is_no_processor_is_loaded_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arranged(bench, monkeypatch, None, None, 4) == (4, 1)
    assert len(bench.loaded) == 1


def test_what_fails_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(None)
    with pytest.raises(RuntimeError, match="out of memory"):
        arrange(bench.load, IMAGES, None, None, 4)
    assert [executor.closed for executor in bench.loaded] == [True]


@pytest.mark.parametrize(
    ("allowed", "count", "threads", "device", "expected"),
    [
        ({2, 5}, 2, 1, "cpu", [2, 5]),
        ({2, 5}, 1, 1, "cpu", []),
        ({2, 5}, 2, 2, "cpu", []),
        ({2, 5}, 2, 1, "cuda:0", []),
        ({1, 2, 5}, 2, 1, "cpu", []),  # as under a quota, which others have too
        ({5}, 1, 1, "cpu", []),
    ],
)
def test_executors_have_processors_of_their_own_where_there_is_one_for_each(
    allowed: set[int], count: int, threads: int, device: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: allowed)
    executors: list[Executor] = [TimedExecutor({}, Clock(), device) for _ in range(count)]
    assert list(own_processors(executors, threads)) == expected
