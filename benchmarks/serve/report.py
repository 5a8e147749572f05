"""Summaries of the measurements: medians of rates and ratios over the rounds, quantiles over all answers.

Only rounds without a disturbance count; if all rounds of a load were disturbed, all count, and the row says so.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import numpy as np

from benchmarks.serve import queueing
from benchmarks.serve.ceiling import Rate, together
from benchmarks.serve.loads import FORMATS, Load
from benchmarks.serve.rounds import BenchmarkRun, LoadResult, Round, images_per_second

T = TypeVar("T")

_STAGE = "resnet_stage_seconds"
_QUANTILES = (0.5, 0.9, 0.99, 0.999)
_CURVE = (*np.linspace(0, 0.9, 46), *(1 - np.logspace(-1, -3, 41)))
"""Quantiles of the picture."""


@dataclass(frozen=True)
class LoadRow:
    """Results of one load; times in milliseconds."""

    load: str
    kind: str
    connections: int | None
    share: float | None
    """Open loop: rate as a share of the capacity."""
    images_per_second: float
    ceiling: float | None
    """Closed loop: images per second that engine and decoder reach together without the service."""
    efficiency: float | None
    """Images per second over the ceiling of the same round: the median over the rounds."""
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    answers: int
    errors: int
    """Answers with another status than 200, and lost connections."""
    batch: float
    """Mean number of images per batch."""
    cpu_ms: float
    """CPU time of the service per image."""
    beyond_ms: float
    """CPU time per image beyond that of the engine and the decoder alone."""
    stage_ms: dict[str, float]
    """Wall time of each stage of a request, from the service's metrics."""
    thread_ms: dict[str, float]
    """CPU time per image by thread name."""
    rss: float
    """MiB."""
    pss: float
    floor: float | None
    """Time to decode and then compute one image, without the service."""
    simulated_p99: float | None
    """Open loop: p99 of the simulated queue."""
    client_ms: float
    """CPU time of the client per request."""
    late_p99: float | None
    """Open loop: p99 of the time from which a request was due until the client sent it."""
    other_load: float
    """Largest share of the CPUs that other processes used."""
    rounds: int
    disturbed: bool
    curve: list[tuple[float, float]] = field(repr=False)
    """Quantiles for the picture: a share of the answers, and the time within which they arrived."""

    @property
    def tail_ratio(self) -> float | None:
        """The measured p99 over the simulated one."""
        return self.p99 / self.simulated_p99 if self.p99 and self.simulated_p99 else None


@dataclass(frozen=True)
class Ceiling:
    """Results of the engine or the decoder alone."""

    name: str
    images_per_second: float
    ms: float
    """Time per batch, or per decoded image."""
    cpu_ms: float
    """CPU time per image."""
    other_load: float
    disturbed: bool


def ceilings(run: BenchmarkRun, max_other_load: float) -> list[Ceiling]:
    found: dict[str, list[tuple[Rate, float]]] = defaultdict(list)
    for each in run.rounds:
        for name, measured in each.engine.items():
            found[f"engine {name}"].append(measured)
        for name, measured in each.decode.items():
            found[f"decode {name}"].append(measured)
    return [_alone(name, measured, max_other_load) for name, measured in found.items()]


def _alone(name: str, every: Sequence[tuple[Rate, float]], max_other_load: float) -> Ceiling:
    measured, disturbed = _clean(every, lambda pair: pair[1], max_other_load)
    return Ceiling(
        name,
        statistics.median(rate.images_per_second for rate, _ in measured),
        1000 * statistics.median(rate.seconds for rate, _ in measured),
        1000 * statistics.median(rate.cpu_seconds for rate, _ in measured),
        max(others for _, others in measured),
        disturbed,
    )


def rows(run: BenchmarkRun, servers: int, max_other_load: float) -> list[LoadRow]:
    """One row per load.

    Args:
        run: the measurements.
        servers: requests that the simulated queue handles outside its engine at the same time: the number of CPUs.
        max_other_load: as in the options.
    """
    planned = list(run.rounds[0].served)
    return [_row(run, load, servers, max_other_load) for load in planned]


def _row(run: BenchmarkRun, load: Load, servers: int, max_other_load: float) -> LoadRow:
    measured, disturbed = _clean(run.rounds, lambda each: _other_load(each, load), max_other_load)
    served = [each.served[load][0] for each in measured]
    times, bad = _times(served)
    images = max(1, load.images * len(times))
    batch = _mean(_add(each.metrics for each in served), "resnet_batch_size")
    cpu = sum(each.cpu_seconds for each in served) / images
    alone = statistics.median(_alone_cpu(each, run.batches, load, batch) for each in measured)
    rates = [images_per_second(each, load) for each in served]
    ceilings = [_ceiling(each, load) for each in measured]
    closed = load.share is None
    p50, p90, p99, p999 = (_quantile(times, q) for q in _QUANTILES)
    return LoadRow(
        load=load.name,
        kind=load.kind,
        connections=load.connections,
        share=load.share,
        images_per_second=statistics.median(rates),
        ceiling=statistics.median(ceilings) if closed else None,
        efficiency=statistics.median(np.divide(rates, ceilings).tolist()) if closed else None,
        p50=p50,
        p90=p90,
        p99=p99,
        p999=p999,
        answers=len(times) + bad,
        errors=bad,
        batch=batch,
        cpu_ms=1000 * cpu,
        beyond_ms=1000 * (cpu - alone),
        stage_ms=_stages(served),
        thread_ms=_threads(served, images),
        rss=statistics.median(each.memory.rss for each in served),
        pss=statistics.median(each.memory.pss for each in served),
        floor=1000 * statistics.median(_floor(each, load) for each in measured) if load.images == 1 else None,
        simulated_p99=None if closed else _quantile(_simulate(run, load, measured, servers), 0.99),
        client_ms=1000 * sum(each.outcome.cpu_seconds for each in served) / max(1, len(times) + bad),
        late_p99=_quantile([seconds for each in served for seconds in each.outcome.late], 0.99),
        other_load=max(_other_load(each, load) for each in measured),
        rounds=len(measured),
        disturbed=disturbed,
        curve=[(float(q), value) for q in _CURVE if (value := _quantile(times, q)) is not None],
    )


def _stages(served: Sequence[LoadResult]) -> dict[str, float]:
    """Milliseconds per request of each stage with requests."""
    metrics = _add(each.metrics for each in served)
    names = [name.partition(" ")[2] for name in metrics if name.startswith(f"{_STAGE}_sum ")]
    counts = {name: metrics[f"{_STAGE}_count {name}"] for name in names}
    return {name: 1000 * metrics[f"{_STAGE}_sum {name}"] / count for name, count in counts.items() if count}


def _threads(served: Sequence[LoadResult], images: int) -> dict[str, float]:
    """Milliseconds of CPU time per image, by thread name."""
    used = _add(each.cpu_by_thread for each in served)
    return {name: 1000 * seconds / images for name, seconds in used.items() if seconds > 0}


def _clean(items: Sequence[T], others: Callable[[T], float], most: float) -> tuple[list[T], bool]:
    """The undisturbed items; if there are none, all items and True."""
    clean = [item for item in items if others(item) <= most]
    return (clean, False) if clean else (list(items), True)


def _other_load(measured: Round, load: Load) -> float:
    """Largest load of other processes while the load and its ceilings were measured."""
    alone = [others for _, others in measured.engine.values()]
    if load.kind in FORMATS:
        alone += [measured.decode[FORMATS[load.kind]][1], measured.in_turn[FORMATS[load.kind]][1]]
    return max(measured.served[load][1], *alone)


def _times(served: Sequence[LoadResult]) -> tuple[list[float], int]:
    """Seconds of all answers with status 200, and the number of all others."""
    pairs = [pair for each in served for pair in zip(each.outcome.seconds, each.outcome.statuses, strict=True)]
    good = [seconds for seconds, status in pairs if status == 200]
    return good, len(pairs) - len(good)


def _quantile(seconds: Sequence[float], q: float) -> float | None:
    """A quantile in milliseconds; None if less than one answer lies beyond it."""
    return 1000 * float(np.quantile(seconds, q)) if len(seconds) * (1 - q) >= 1 - 1e-9 else None


def _ceiling(measured: Round, load: Load) -> float:
    engine = max(rate.images_per_second for rate, _ in measured.engine.values())
    if load.kind not in FORMATS:
        return engine
    return together(engine, measured.decode[FORMATS[load.kind]][0].images_per_second)


def _floor(measured: Round, load: Load) -> float:
    """Seconds of one image without the service."""
    if load.kind in FORMATS:
        return measured.in_turn[FORMATS[load.kind]][0]
    return measured.engine["together 1"][0].seconds


def _alone_cpu(measured: Round, batches: Sequence[int], load: Load, batch: float) -> float:
    """CPU seconds per image of the decoder and of the engine, in batches about as large as those of the load."""
    nearest = min(batches, key=lambda size: abs(size - batch))
    engine = measured.engine[f"together {nearest}"][0].cpu_seconds
    return engine + (measured.decode[FORMATS[load.kind]][0].cpu_seconds if load.kind in FORMATS else 0.0)


def _simulate(run: BenchmarkRun, load: Load, measured: Sequence[Round], servers: int) -> list[float]:
    """The times of a queue that gets the same requests; none where no single_requests requests were measured."""
    served = [each.served[load][0] for each in measured]
    front: list[float] = []
    weights: list[float] = []
    batches: dict[int, list[float]] = defaultdict(list)
    for each in served:
        starts = each.outcome.started
        weights_of = queueing.single_requests(starts, each.outcome.seconds, len(starts) / each.window)
        for index, inference, size in _accounts(each):
            batches[size].append(inference)
            if index in weights_of:
                front.append(each.outcome.seconds[index] - inference)
                weights.append(weights_of[index])
    if not front:
        return []
    shared = run.threads == 1 and run.concurrent_batches > 1
    station = queueing.Station(front, servers, batches, run.max_batch, run.concurrent_batches, shared, weights)
    return [
        seconds
        for number, each in enumerate(served)
        for seconds in queueing.simulate(sorted(chain.from_iterable(each.arrivals)), station, number)
    ]


def _accounts(served: LoadResult) -> list[tuple[int, float, int]]:
    """Index, seconds in the engine and batch size of each answer with status 200."""
    accounts = []
    for index, (status, timing) in enumerate(zip(served.outcome.statuses, served.outcome.timings, strict=True)):
        if status == 200 and timing:
            said = json.loads(timing)
            accounts.append((index, said["inference_ms"] / 1000, said["batch_size"]))
    return accounts


def _add(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            sums[name] += value
    return sums


def _mean(metrics: dict[str, float], name: str) -> float:
    return metrics.get(f"{name}_sum", 0.0) / max(1.0, metrics.get(f"{name}_count", 0.0))
