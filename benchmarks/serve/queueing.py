"""How long requests have to take where nothing is wasted: a simulated first-in-first-out queue before a batch server.

Each request passes two stations. At the first it is read, decoded and answered, for a time of its own, on one of
several servers. At the second it waits for the engine, which takes as many as wait, up to a largest batch, whenever it
is free, and is busy for a time that depends on their number. A request is done when its batch is. Arrivals are those of
the measurement, and times are drawn from those measured, so what the service takes beyond is its own: threads that wait
for one another, batches that form badly, a loop that is late. What a request takes is drawn from those of the same
measurement that met no other: where processors fall asleep between requests it is more than where one follows another.

Where executors have one thread each, the processors serve both stations, first come first served: what is ready first
gets the next one that is free. Otherwise each station has servers of its own, as on a GPU, or where a batch takes all
processors and lets requests that are decoded have some of them.

With one image a batch, a constant time and Poisson arrivals the second station is M/D/1, whose mean wait is known:
rho s / 2 (1 - rho) (Pollaczek and Khinchine).
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
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
    shared: bool = False
    """Whether a batch takes one of the `servers`, too."""
    weights: Sequence[float] | None = None
    """How much each of `front` counts; None for alike."""


def lone(starts: Sequence[float], seconds: Sequence[float], rate: float) -> dict[int, float]:
    """The requests that met no other, by index, and how much each of them counts.

    At Poisson times nobody comes within d seconds with the probability exp(-rate d): the longer requests take, the more
    of their kind have met others, and the more those that have not count.

    Args:
        starts: of all requests, in seconds.
        seconds: that each took.
        rate: requests a second.
    """
    alone: dict[int, float] = {}
    order = sorted(range(len(starts)), key=lambda index: starts[index])
    busy_until = -math.inf
    for index, following in itertools.zip_longest(order, order[1:]):
        start, end = starts[index], starts[index] + seconds[index]
        if start >= busy_until and (following is None or starts[following] >= end):
            alone[index] = math.exp(rate * seconds[index])
        busy_until = max(busy_until, end)
    return alone


def simulate(arrivals: Sequence[float], station: Station, seed: int = 0) -> list[float]:
    """Seconds from each arrival to the end of its request.

    Args:
        arrivals: in seconds, ascending.
        station: what it takes.
        seed: of the draws.
    """
    draw = random.Random(seed)
    if station.shared:
        return _simulate_shared(arrivals, station, draw)
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


def _simulate_shared(arrivals: Sequence[float], station: Station, draw: random.Random) -> list[float]:
    weights = _cumulative(station)
    free, lanes = station.servers, station.lanes
    coming: deque[float] = deque()
    """Who waits for the first station: when they arrived."""
    decoded: deque[tuple[float, float]] = deque()
    """Who waits for the engine: since when, and when they arrived."""
    # (when, number, those that arrive, are decoded or are computed then); numbers keep events of one time in order.
    numbers = itertools.count()
    events: list[tuple[float, int, str, list[float]]] = [
        (arrived, next(numbers), "arrive", [arrived]) for arrived in sorted(arrivals)
    ]
    times: list[float] = []
    while events:
        now, _, what, whose = heapq.heappop(events)
        if what == "arrive":
            coming += whose
        else:
            free += 1
            if what == "decoded":
                decoded += [(now, arrived) for arrived in whose]
            else:
                lanes += 1
                times += [now - arrived for arrived in whose]
        while free and (coming or (decoded and lanes)):
            free -= 1
            if decoded and lanes and not (coming and coming[0] < decoded[0][0]):
                lanes -= 1
                batch = [decoded.popleft()[1] for _ in range(min(len(decoded), station.max_batch))]
                end = now + draw.choice(_measured(station.batches, len(batch)))
                heapq.heappush(events, (end, next(numbers), "computed", batch))
            else:
                end = now + draw.choices(station.front, cum_weights=weights)[0]
                heapq.heappush(events, (end, next(numbers), "decoded", [coming.popleft()]))
    return times


def _through_front(arrivals: Sequence[float], station: Station, draw: random.Random) -> list[float]:
    """When each request leaves the first station."""
    free = [0.0] * station.servers
    weights = _cumulative(station)
    done = []
    for arrived in arrivals:
        end = max(heapq.heappop(free), arrived) + draw.choices(station.front, cum_weights=weights)[0]
        heapq.heappush(free, end)
        done.append(end)
    return done


def _cumulative(station: Station) -> list[float] | None:
    return None if station.weights is None else list(itertools.accumulate(station.weights))


def _measured(batches: Mapping[int, Sequence[float]], size: int) -> Sequence[float]:
    """Times of batches of that size, or of the nearest size that was seen."""
    return batches.get(size) or batches[min(batches, key=lambda seen: abs(seen - size))]
