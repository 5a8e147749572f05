"""Timing that a busy machine does not spoil: everything that is compared runs in turn, many times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.machine import Moment
from models.progress import progress_bar

ROUNDS = 12
_SECONDS = 0.4
"""Of each thing in each round."""
MOST_OTHER_LOAD = 0.08
"""Share of the processors that others may use before a timing is held to be disturbed."""


def interleave(runs: Mapping[str, Callable[[], object]], label: str, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Time several functions in turn.

    Returns:
        Seconds of one call, the median of each round, by name. What disturbs a round disturbs all that is compared.
    """
    for run in runs.values():
        run()
    medians: dict[str, list[float]] = {name: [] for name in runs}
    with progress_bar(label, total=rounds * len(runs)) as progress:
        for turn in range(rounds):
            for index, (name, run) in enumerate(runs.items()):
                medians[name].append(_median_of_calls(run))
                progress.update(turn * len(runs) + index + 1)
    return medians


def _median_of_calls(run: Callable[[], object]) -> float:
    run()  # what ran before has left the caches to its own data
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


@dataclass(frozen=True)
class Visit:
    """One turn of one thing that is timed."""

    seconds: float
    """Of a call, the median."""
    disturbed: bool
    """Whether something else used the processors meanwhile."""


def visit(run: Callable[[], object], seconds: float) -> Visit:
    """Call a function for some time, or once if a call takes longer."""
    run()  # what ran before has left the caches to its own data
    before = Moment.now()
    calls: list[float] = []
    end = time.perf_counter() + seconds
    while not calls or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        calls.append(time.perf_counter() - started)
    return Visit(float(np.median(calls)), before.other_load(Moment.now()) > MOST_OTHER_LOAD)
