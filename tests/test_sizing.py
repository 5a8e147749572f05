"""How many processors and how large batches a version gets: by a clock that is a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.executors import Executor, ExecutorError
from service.sizing import choose_max_batch, load_with_threads

IMAGE = np.zeros((1, 1, 1, 1), np.uint8)


class TimedExecutor:
    """A batch takes as long as a table says; the clock is a number."""

    computes = True
    device = "timed"
    lanes = 1
    buckets: Sequence[int] = ()
    closed = False

    def __init__(self, seconds: dict[int, float], clock: list[float]) -> None:
        self.seconds = seconds
        self.clock = clock
        self.sizes: list[int] = []

    def acquire(self, n: int) -> Any:
        return np.empty((n, 1, 1, 1), np.uint8)

    def run(self, images: Any, outputs: frozenset[str]) -> dict[str, Any]:
        # The first run of a size is slow, as it is where a runtime plans its memory.
        self.clock[0] += self.seconds[len(images)] * (1 if len(images) in self.sizes else 3)
        self.sizes.append(len(images))
        return {}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        ({1: 10, 2: 20, 4: 40, 8: 80, 16: 160, 32: 320}, 1),  # nothing to gain
        ({1: 10, 2: 10, 4: 10, 8: 10, 16: 10, 32: 10}, 32),  # everything to gain
        ({1: 10, 2: 12, 4: 20, 8: 39.5, 16: 78.6, 32: 160}, 4),  # 200/s, and 203.6/s with 16
        ({1: 10, 2: 12, 4: 20, 8: 37, 16: 73, 32: 145}, 8),  # 200/s is not within 3 % of 220.7/s; 216.2/s is
        ({1: 0.5, 2: 1, 4: 2, 8: 4, 16: 8, 32: 16}, 16),  # a batch costs the service 0.2 ms beside
        ({1: 300}, 1),  # too slow to try more
        ({1: 100, 2: 110, 4: 300}, 2),
    ],
)
def test_the_smallest_batch_near_the_best_throughput(
    milliseconds: dict[int, float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("service.sizing.time.perf_counter", lambda: clock[0])
    executor: Executor = TimedExecutor({size: value / 1000 for size, value in milliseconds.items()}, clock)
    assert choose_max_batch(executor, np.zeros((3, 1, 1, 1), np.uint8)) == expected


@pytest.mark.parametrize(
    ("cpus", "milliseconds", "expected"),
    [
        (2, {2: 0.56, 1: 0.51}, 1),  # a small network: threads that wait for one another gain nothing
        (2, {2: 22, 1: 43}, 2),  # a large one needs all
        (8, {8: 1.0, 7: 1.09}, 7),
        (8, {8: 1.0, 7: 1.12}, 8),
    ],
)
def test_the_last_processor_is_left_to_http_where_it_gains_nothing(
    cpus: int, milliseconds: dict[int, float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, loaded = [0.0], {}
    monkeypatch.setattr("service.sizing.time.perf_counter", lambda: clock[0])

    def load(threads: int) -> list[Executor]:
        loaded[threads] = TimedExecutor({1: milliseconds[threads] / 1000}, clock)
        loaded[threads].device = "cpu"
        return [loaded[threads]]

    (kept,), threads = load_with_threads(load, cpus, IMAGE)
    assert threads == expected
    assert {threads: executor.closed for threads, executor in loaded.items()} == {
        count: count != expected for count in milliseconds
    }
    assert kept is loaded[expected]


@pytest.mark.parametrize(("device", "cpus"), [("cuda:0", 2), ("cpu", 1)])
def test_nothing_is_measured_where_there_is_nothing_to_choose(device: str, cpus: int) -> None:
    executor = TimedExecutor({}, [0.0])
    executor.device = device
    assert load_with_threads(lambda _: [executor], cpus, IMAGE) == ([executor], cpus)


def test_what_is_loaded_is_freed_where_the_second_cannot_be_loaded() -> None:
    executor = TimedExecutor({1: 0.001}, [0.0])
    executor.device = "cpu"

    def load(threads: int) -> list[Executor]:
        if threads == 1:
            raise ExecutorError("no memory")
        return [executor]

    with pytest.raises(ExecutorError, match="no memory"):
        load_with_threads(load, 2, IMAGE)
    assert executor.closed
