"""How large batches a version gets, by a clock that is a number."""

from __future__ import annotations

import numpy as np
import pytest

from service.engine.sizing import choose_max_batch
from tests.support.timed import Clock, TimedExecutor


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        ({1: 10, 2: 20, 4: 40, 8: 80, 16: 160, 32: 320}, 1),  # nothing to gain
        ({1: 10, 2: 10, 4: 10, 8: 10, 16: 10, 32: 10}, 32),  # everything to gain
        ({1: 10, 2: 12, 4: 20, 8: 39.5, 16: 78.6, 32: 160}, 4),  # 200/s, and 203.6/s with 16
        ({1: 10, 2: 12, 4: 20, 8: 37, 16: 73, 32: 145}, 8),  # 200/s is not within 5 % of 220.7/s; 216.2/s is
        ({1: 0.5, 2: 1, 4: 2, 8: 4, 16: 8, 32: 16}, 8),  # a batch costs the service 0.15 ms beside
        ({1: 300}, 1),  # too slow to try more
        ({1: 100, 2: 110, 4: 300}, 2),
    ],
)
def test_the_smallest_batch_near_the_best_throughput(
    milliseconds: dict[int, float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.install(monkeypatch)
    executor = TimedExecutor({size: value / 1000 for size, value in milliseconds.items()}, clock)
    assert choose_max_batch(executor, np.zeros((3, 1, 1, 1), np.uint8)) == expected
