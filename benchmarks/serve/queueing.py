"""How long requests have to take where nothing is wasted: a simulated first-in-first-out queue before a batch server.

Each request passes two stations. At the first it is read, decoded and answered, for a time of its own, on one of
several servers. At the second it waits for the engine, which takes as many as wait, up to a largest batch, whenever it
is free, and is busy for a time that depends on their number. A request is done when its batch is. Arrivals are those of
the measurement, and times are drawn from those measured, so what the service takes beyond is its own: threads that wait
for one another, batches that form badly, a loop that is late.

With one image a batch, a constant time and Poisson arrivals the second station is M/D/1, whose mean wait is known:
rho s / 2 (1 - rho) (Pollaczek and Khinchine).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Station:
    """What the stations take, in seconds as measured."""

    front: Sequence[float]
    """Of single requests outside the engine."""
    servers: int
    """Requests that are at the first station at the same time."""
    batches: Mapping[int, Sequence[float]]
    """Of batches in the engine, by number of images."""
    max_batch: int
    lanes: int = 1
    """Batches that are in the engine at the same time."""


def simulate(arrivals: Sequence[float], station: Station, seed: int = 0) -> list[float]:
    """Seconds from each arrival to the end of its request.

    Args:
        arrivals: in seconds, ascending.
        station: what it takes.
        seed: of the draws.
    """
    draw = random.Random(seed)
    ready = sorted(
        (done, arrived) for done, arrived in zip(_through_front(arrivals, station, draw), arrivals, strict=True)
    )
    free = [0.0] * station.lanes
    times: list[float] = []
    first = 0
    while first < len(ready):
        start = max(heapq.heappop(free), ready[first][0])
        last = first
        while last < len(ready) and last - first < station.max_batch and ready[last][0] <= start:
            last += 1
        end = start + draw.choice(_measured(station.batches, last - first))
        heapq.heappush(free, end)
        times += [end - arrived for _, arrived in ready[first:last]]
        first = last
    return times


def _through_front(arrivals: Sequence[float], station: Station, draw: random.Random) -> list[float]:
    """When each request leaves the first station."""
    free = [0.0] * station.servers
    done = []
    for arrived in arrivals:
        end = max(heapq.heappop(free), arrived) + draw.choice(station.front)
        heapq.heappush(free, end)
        done.append(end)
    return done


def _measured(batches: Mapping[int, Sequence[float]], size: int) -> Sequence[float]:
    """Times of batches of that size, or of the nearest size that was seen."""
    return batches.get(size) or batches[min(batches, key=lambda seen: abs(seen - size))]
