"""The limit of the throughput in a row of the table of workers."""

from __future__ import annotations

import pytest

from benchmarks.serve.workers import find_limit


@pytest.mark.parametrize(
    ("used", "busy", "limit"),
    [
        ({"engine": 1.0, "worker-1": 2.8}, 0.97, "all CPUs, 97% busy: 380 µs per image in the service"),
        ({"engine": 1.9, "worker-1": 1.2}, 0.5, "engine: 190 of 200 µs per image"),
        ({"engine": 0.5, "worker-1": 1.95}, 0.5, "worker-1: 195 of 200 µs per image"),
        ({"engine": 0.5, "worker-1": 0.4}, 0.5, "the executor, or waiting for it: 200 µs per image"),
    ],
)
def test_limit_is_named_with_its_time_per_image(used: dict[str, float], busy: float, limit: str) -> None:
    assert find_limit(used, busy, seconds=2.0, images=10_000) == limit
