"""How processors are shared out among executors: by how long an image takes, and never against what is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.arrangement import arrange

SLOW, QUICK = 0.020, 0.0005
IMAGES = np.zeros((3, 1, 1, 1), np.uint8)


class Device:
    """Takes a time by the clock that is a number, and is told when it is closed."""

    lanes = 1
    buckets: Sequence[int] = ()

    def __init__(self, threads: int, bench: Bench) -> None:
        self.threads = threads
        self.computes = bench.computes
        self.device = bench.device
        self.bench = bench
        self.closed = False

    def acquire(self, n: int) -> Any:
        return np.empty((n, 1, 1, 1), np.uint8)

    def run(self, images: Any, outputs: frozenset[str]) -> dict[str, Any]:
        if self.bench.seconds is None:
            raise RuntimeError("out of memory")
        self.bench.clock += self.bench.seconds
        return {}

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Bench:
    """Loads devices, and remembers them."""

    def __init__(self, seconds: float | None, device: str = "cpu", computes: bool = True) -> None:
        self.seconds = seconds
        self.device = device
        self.computes = computes
        self.clock = 0.0
        self.loaded: list[Device] = []

    def load(self, threads: int, copies: int) -> list[Any]:
        new = [Device(threads, self) for _ in range(copies)]
        self.loaded += new
        return new


def arranged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, threads: int | None, copies: int | None, cpus: int
) -> tuple[int, int]:
    """Threads of each executor and executors, of which the others are closed."""
    monkeypatch.setattr("service.sizing.time.perf_counter", lambda: bench.clock)
    executors, each = arrange(bench.load, IMAGES, threads, copies, cpus)
    assert [device for device in bench.loaded if not device.closed] == executors
    assert {device.threads for device in executors} == {each}  # type: ignore[attr-defined]
    return each, len(executors)


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
    assert [device.closed for device in bench.loaded] == [True]
