"""A simulated first-in-first-out queue in front of a batch server: the shortest times that requests can take.

Each request passes two stations. At the first station it is read, decoded and answered, on one of several servers. At
the second station it waits for the engine: whenever the engine is free, it takes all waiting requests up to the largest
batch, for a time that depends on their number. A request is done when its batch is done. The arrivals are those of the
measurement, and all times are drawn from measured ones, so the difference to the service's times is its own loss:
threads that wait for each other, unfavourable batches, a late event loop. The times of the first station are drawn from
requests of the same measurement that overlapped no other: CPUs that sleep between requests make them slower than
requests in a row.

If executors have one thread each, the CPUs serve both stations, first come, first served. Otherwise each station has
servers of its own, as on a GPU, or if a batch takes all CPUs and shares them with requests that are decoded.

With one image per batch, a constant time and Poisson arrivals, the second station is M/D/1 with the known mean wait
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
    """Measured times of both stations, in seconds."""

    front: Sequence[float]
    """Times of single requests outside the engine."""
    servers: int
    """Requests at the first station at the same time."""
    batches: Mapping[int, Sequence[float]]
    """Times of batches in the engine, by number of images."""
    max_batch: int
    concurrent_batches: int = 1
    """Batches in the engine at the same time."""
    shared: bool = False
    """Whether a batch also takes one of the `servers`."""
    weights: Sequence[float] | None = None
    """Weight of each time of `front`; None for equal weights."""


def single_requests(starts: Sequence[float], seconds: Sequence[float], rate: float) -> dict[int, float]:
    """The weights of the requests that overlapped no other, by index.

    With Poisson arrivals, no request arrives within d seconds with the probability exp(-rate d). Long requests are
    therefore rarer among these than among all requests, and the weight exp(rate d) corrects this.

    Args:
        starts: start of each request, in seconds.
        seconds: duration of each request.
        rate: requests per second.
    """
    weights: dict[int, float] = {}
    order = sorted(range(len(starts)), key=lambda index: starts[index])
    busy_until = -math.inf
    for index, following in itertools.zip_longest(order, order[1:]):
        start, end = starts[index], starts[index] + seconds[index]
        if start >= busy_until and (following is None or starts[following] >= end):
            weights[index] = math.exp(rate * seconds[index])
        busy_until = max(busy_until, end)
    return weights


def simulate(arrivals: Sequence[float], station: Station, seed: int = 0) -> list[float]:
    """Seconds from each arrival to the end of its request.

    Args:
        arrivals: times in seconds, ascending.
        station: the times and sizes of both stations.
        seed: seed of the random draws.
    """
    draw = random.Random(seed)
    if station.shared:
        return _simulate_shared(arrivals, station, draw)
    ready = sorted(
        (done, arrived) for done, arrived in zip(_through_front(arrivals, station, draw), arrivals, strict=True)
    )
    free = [0.0] * station.concurrent_batches
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
    free, concurrent_batches = station.servers, station.concurrent_batches
    coming: deque[float] = deque()
    """Arrival times of the requests that wait for the first station."""
    decoded: deque[tuple[float, float]] = deque()
    """Requests that wait for the engine: the start of the wait, and the arrival."""
    # (time, number, kind, arrival times of the requests); the number keeps events of the same time in order.
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
                concurrent_batches += 1
                times += [now - arrived for arrived in whose]
        while free and (coming or (decoded and concurrent_batches)):
            free -= 1
            if decoded and concurrent_batches and not (coming and coming[0] < decoded[0][0]):
                concurrent_batches -= 1
                batch = [decoded.popleft()[1] for _ in range(min(len(decoded), station.max_batch))]
                end = now + draw.choice(_measured(station.batches, len(batch)))
                heapq.heappush(events, (end, next(numbers), "computed", batch))
            else:
                end = now + draw.choices(station.front, cum_weights=weights)[0]
                heapq.heappush(events, (end, next(numbers), "decoded", [coming.popleft()]))
    return times


def _through_front(arrivals: Sequence[float], station: Station, draw: random.Random) -> list[float]:
    """Times at which the requests leave the first station."""
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
    """Times of batches of a size, or of the nearest measured size."""
    return batches.get(size) or batches[min(batches, key=lambda other: abs(other - size))]
