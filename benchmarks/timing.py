"""Timing that other load on the machine disturbs little: functions that are compared run in turn, many times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from models.progress import progress_bar

ROUNDS = 12
_SECONDS = 0.4
"""Time of each function in each round."""


def interleave(runs: Mapping[str, Callable[[], object]], label: str, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Time several functions in turn.

    Returns:
        By name, the median seconds of a call in each round. A disturbance of a round affects all functions alike.
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
    run()  # fills the caches, which hold data of the function before
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
