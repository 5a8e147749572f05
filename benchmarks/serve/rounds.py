"""The measurements of each round: engine and decoder alone, then the service under each load."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import system
from benchmarks.serve import ceiling, client, loads, payloads, server
from benchmarks.serve.ceiling import Engines, Rate
from benchmarks.serve.client import Outcome
from benchmarks.serve.loads import OPEN_KIND, Kind, Load
from benchmarks.serve.server import Server
from benchmarks.system import Memory, cpu_usage
from models.artifact import manifest
from service.core.settings import Settings

T = TypeVar("T")

_WARM_UP = 0.25
"""Warm-up before a measurement, as a share of its time."""
_OPEN_LOOP_FACTOR = 5
"""Open loops last longer by this factor: the tail of a light load needs more requests."""
_IDLE_FACTOR = 5
"""The idle service is measured for longer by this factor: CPU time is known in steps of 10 ms."""


@dataclass(frozen=True)
class Options:
    """Options of the measurements."""

    service: Sequence[str]
    """Command line of the service."""
    settings: Settings
    """The settings that result from it."""
    photographs: Path
    kinds: Sequence[Kind]
    connections: Sequence[int]
    batches: Sequence[int]
    """Batch sizes of the engine alone, beside 1 and the service's largest."""
    shares: Sequence[float]
    rounds: int
    seconds: float
    """Time of each measurement in each round."""
    starts: int
    """Number of starts whose time until readiness is measured."""
    clients: int
    """Number of processes that send requests."""
    cpus: int
    max_other_load: float
    """Load of other processes, as a share of the CPUs, above which a measurement is disturbed and repeated."""
    retries: int


@dataclass(frozen=True)
class LoadResult:
    """Result of one load in one round."""

    outcome: Outcome
    window: float
    """Seconds in which requests began."""
    cpu_seconds: float
    """CPU time of the service."""
    cpu_by_thread: dict[str, float]
    metrics: dict[str, float]
    """Growth of the service's histograms, by the names of `Server.metrics`."""
    memory: Memory
    arrivals: list[list[float]]
    """Open loop: times at which requests were due, per sending process."""


@dataclass
class Round:
    """All measurements once, each with the load of other processes during it, as a share of the CPUs."""

    engine: dict[str, tuple[Rate, float]] = field(default_factory=dict)
    """By arrangement and batch size, such as `together 8`."""
    decode: dict[str, tuple[Rate, float]] = field(default_factory=dict)
    """By image format."""
    in_turn: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds to decode and then compute one image, by image format."""
    served: dict[Load, tuple[LoadResult, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkRun:
    """All measurements, and the service's configuration."""

    model: str
    version: str
    executor: str
    precision: str
    max_batch: int
    concurrent_batches: int
    """Batches that the service computes at the same time."""
    threads: int
    """Threads per instance."""
    starts: list[float]
    """Seconds from each start of the service until readiness."""
    idle_cpu: float
    """Share of one CPU that the idle service uses."""
    idle_memory: Memory
    batches: list[int]
    """Batch sizes of the engine alone."""
    rounds: list[Round]


def steps(options: Options) -> int:
    """Number of measurements in all rounds, for a progress bar."""
    formats = {loads.FORMATS[kind] for kind in options.kinds if kind in loads.FORMATS}
    planned = loads.plan(options.kinds, options.connections, options.shares)
    return options.rounds * (1 + 2 * len(formats) + len(planned))


def run(options: Options, step: Callable[[str], None]) -> BenchmarkRun:
    """Run all measurements.

    Args:
        options: options of the measurements.
        step: called before each measurement, with its name.

    Raises:
        ServerFailed: the service does not start.
        NoPhotographs: there are no files to send.
    """
    files = payloads.photographs(options.photographs)
    starts = [_start(options) for _ in range(options.starts - 1)]
    with server.running(options.service) as serving, _pool(max(options.cpus, options.clients)) as pool:
        starts.append(serving.ready_seconds)
        idle_cpu, idle_memory = _idle(serving, _IDLE_FACTOR * options.seconds)
        loaded = serving.model(options.settings.model)
        version = options.settings.repository_folder / loaded["name"] / loaded["version"]
        with ceiling.engines(version, options.settings, options.cpus) as engines:
            bench = _Bench(options, serving, pool, engines, version, loaded["name"], files, step)
            batches = engines.batches(loaded["max_batch"], options.batches)
            rounds = [bench.round(number, batches) for number in range(options.rounds)]
    return BenchmarkRun(
        model=loaded["name"],
        version=loaded["version"],
        executor=loaded["executor"],
        precision=loaded["precision"],
        max_batch=loaded["max_batch"],
        concurrent_batches=loaded["concurrent_batches"],
        threads=loaded["threads"],
        starts=starts,
        idle_cpu=idle_cpu,
        idle_memory=idle_memory,
        batches=batches,
        rounds=rounds,
    )


class _Bench:
    """The state that the rounds share."""

    def __init__(
        self,
        options: Options,
        serving: Server,
        pool: Pool,
        engines: Engines,
        version: Path,
        model: str,
        files: Sequence[bytes],
        step: Callable[[str], None],
    ) -> None:
        self._options = options
        self._server = serving
        self._pool = pool
        self._engines = engines
        self._model = model
        self._step = step
        self._preprocess = manifest.read(version).preprocess
        formats = sorted({loads.FORMATS[kind] for kind in options.kinds if kind in loads.FORMATS})
        self._files = {name: payloads.encoded(files, name) for name in formats}
        self._requests = loads.requests(options.kinds, files, self._preprocess, model)
        self._reached: dict[Load, list[float]] = defaultdict(list)

    def round(self, number: int, batches: Sequence[int]) -> Round:
        options, result = self._options, Round()
        self._step("the engine alone")
        for arrangement in self._engines.arrangements:
            for batch in batches:
                measure = partial(self._engines.measure, arrangement, batch, options.seconds)
                result.engine[f"{arrangement} {batch}"] = self._undisturbed(measure)
        decoded = self._preprocess, options.settings.decode, options.seconds
        for name, files in self._files.items():
            self._step(f"decoding {name} alone")
            measure_decoder = partial(ceiling.decode, self._pool, files, *decoded, options.cpus)
            result.decode[name] = self._undisturbed(measure_decoder)
            self._step(f"decoding {name} and computing in turn")
            result.in_turn[name] = self._undisturbed(partial(self._engines.in_turn, files, *decoded))
        for load in loads.plan(options.kinds, options.connections, options.shares):
            self._step(load.name)
            served, others = self._undisturbed(partial(self._serve, load, number))
            result.served[load] = served, others
            self._reached[load].append(images_per_second(served, load))
        return result

    def _undisturbed(self, measure: Callable[[], T]) -> tuple[T, float]:
        """Measure, again if other processes disturb it; the least disturbed value, and their share of the CPUs."""
        best: tuple[T, float] | None = None
        for _ in range(1 + self._options.retries):
            before = cpu_usage()
            value = measure()
            others = before.other_load(cpu_usage())
            if best is None or others < best[1]:
                best = value, others
            if others <= self._options.max_other_load:
                break
        assert best is not None
        return best

    def _serve(self, load: Load, number: int) -> LoadResult:
        options, requests = self._options, self._requests[load.kind]
        window = options.seconds * (1 if load.share is None else _OPEN_LOOP_FACTOR)
        arrivals: list[list[float]] = []
        if load.share is not None:
            rate = load.share * self._capacity() / options.clients
            arrivals = [loads.poisson(rate, window, number * options.clients + i) for i in range(options.clients)]
        self._closed(requests, load.connections or options.clients, options.seconds * _WARM_UP)
        processes = self._server.processes()
        metrics, threads = self._server.metrics(self._model), system.cpu_by_thread(processes)
        cpu = self._server.cpu_seconds()
        if load.share is None:
            outcome = self._closed(requests, load.connections or 1, window)
        else:
            outcome = self._open(requests, arrivals)
        cpu = self._server.cpu_seconds() - cpu
        used = system.cpu_by_thread(processes)
        grown = self._server.metrics(self._model)
        return LoadResult(
            outcome,
            window,
            cpu,
            {name: seconds - threads.get(name, 0.0) for name, seconds in used.items()},
            {name: value - metrics.get(name, 0.0) for name, value in grown.items()},
            system.memory(processes),
            arrivals,
        )

    def _capacity(self) -> float:
        """Images per second of the best closed loop with the requests of the open loops."""
        return max(statistics.median(rates) for load, rates in self._reached.items() if load.kind == OPEN_KIND)

    def _closed(self, requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
        shares = client.share(connections, self._options.clients)
        return client.gather(
            self._pool.submit(client.run_closed, self._server.port, requests, share, seconds) for share in shares
        )

    def _open(self, requests: Sequence[bytes], arrivals: Sequence[Sequence[float]]) -> Outcome:
        return client.gather(self._pool.submit(client.run_open, self._server.port, requests, each) for each in arrivals)


def images_per_second(served: LoadResult, load: Load) -> float:
    """Throughput of answers with status 200.

    An answer counts by the share of its time within the window: with 64 images per request, the last answers, which
    arrive after the window, are a large part.
    """
    outcome = served.outcome
    counted = sum(
        min(1.0, (served.window - started) / seconds)
        for started, seconds, status in zip(outcome.started, outcome.seconds, outcome.statuses, strict=True)
        if status == 200 and started < served.window
    )
    return load.images * counted / served.window


def _start(options: Options) -> float:
    with server.running(options.service) as serving:
        return serving.ready_seconds


def _idle(serving: Server, seconds: float) -> tuple[float, Memory]:
    """CPU share and memory of the idle service."""
    started, cpu = time.perf_counter(), serving.cpu_seconds()
    time.sleep(seconds)
    share = (serving.cpu_seconds() - cpu) / (time.perf_counter() - started)
    return share, system.memory(serving.processes())


@contextmanager
def _pool(workers: int) -> Iterator[Pool]:
    """A pool of spawned processes: forked ones would have the state of this process's engine threads."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_import, range(workers)))
        yield pool


def _import(_: int) -> None:
    """Import this module in a process of the pool, so that no measurement includes the import."""
