"""Measures, round by round: the engine and the decoder alone, then the service under each load."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import machine
from benchmarks.machine import Memory, Moment
from benchmarks.serve import ceiling, client, loads, payloads, server
from benchmarks.serve.ceiling import Engines, Rate
from benchmarks.serve.client import Outcome
from benchmarks.serve.loads import OPEN_KIND, Kind, Load
from benchmarks.serve.server import Server
from models.artifact import manifest
from service.core.settings import Settings

T = TypeVar("T")

_WARM_UP = 0.25
"""Of the time of a measurement, before it."""
_OPEN_LONGER = 5
"""Times as long as the others: the tail of a load that leaves the service mostly idle needs more requests."""

_IDLE_LONGER = 5
"""Likewise: processor time is known in steps of 10 ms."""


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    service: Sequence[str]
    """Options of the service, for its command line."""
    settings: Settings
    """The same, as the service understands them."""
    photographs: Path
    kinds: Sequence[Kind]
    connections: Sequence[int]
    batches: Sequence[int]
    """Of the engine alone, beside 1 and the service's largest."""
    shares: Sequence[float]
    rounds: int
    seconds: float
    """Of each measurement in each round."""
    starts: int
    """How often the time to be ready is measured."""
    clients: int
    """Processes that send."""
    cpus: int
    most_other_load: float
    """Share of the machine beyond which a measurement is disturbed, and repeated."""
    retries: int


@dataclass(frozen=True)
class Served:
    """One load in one round."""

    outcome: Outcome
    window: float
    """Seconds of the load, without the last answers."""
    cpu_seconds: float
    """Processor time of the service."""
    cpu_by_thread: dict[str, float]
    metrics: dict[str, float]
    """Growth of the service's own histograms, as `Server.metrics` names them."""
    memory: Memory
    arrivals: list[list[float]]
    """Open loop: when requests were due, for each sending process."""


@dataclass
class Round:
    """Everything, once. Each value comes with the load of others meanwhile, as a share of the machine."""

    engine: dict[str, tuple[Rate, float]] = field(default_factory=dict)
    """By arrangement and batch, such as `together 8`."""
    decode: dict[str, tuple[Rate, float]] = field(default_factory=dict)
    """By format."""
    in_turn: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds of an image that is decoded and then computed, by format."""
    served: dict[Load, tuple[Served, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What was measured."""

    model: str
    version: str
    executor: str
    precision: str
    max_batch: int
    lanes: int
    """Batches that the service computes at the same time."""
    threads: int
    """Of each executor."""
    starts: list[float]
    """Seconds from each start of the service until it was ready."""
    idle_cpu: float
    """Share of one processor that the service uses while nobody asks."""
    idle_memory: Memory
    batches: list[int]
    """That the engine alone was measured with."""
    rounds: list[Round]


def steps(options: Options) -> int:
    """Measurements of the rounds, for a progress bar; fewer where there is nothing to try."""
    formats = {loads.FORMATS[kind] for kind in options.kinds if kind in loads.FORMATS}
    planned = loads.plan(options.kinds, options.connections, options.shares)
    return options.rounds * (1 + 2 * len(formats) + len(planned))


def run(options: Options, step: Callable[[str], None]) -> Run:
    """Measure.

    Args:
        options: what.
        step: called before each measurement, with its name.

    Raises:
        ServerFailed: the service does not start.
        NoPhotographs: there is nothing to send.
    """
    files = payloads.photographs(options.photographs)
    starts = [_start(options) for _ in range(options.starts - 1)]
    with server.running(options.service) as serving, _pool(max(options.cpus, options.clients)) as pool:
        starts.append(serving.ready_seconds)
        idle_cpu, idle_memory = _idle(serving, _IDLE_LONGER * options.seconds)
        loaded = serving.model(options.settings.model)
        version = options.settings.repository / loaded["name"] / loaded["version"]
        with ceiling.engines(version, options.settings, options.cpus) as engines:
            bench = _Bench(options, serving, pool, engines, version, loaded["name"], files, step)
            batches = engines.batches(loaded["max_batch"], options.batches)
            rounds = [bench.round(number, batches) for number in range(options.rounds)]
    return Run(
        model=loaded["name"],
        version=loaded["version"],
        executor=loaded["executor"],
        precision=loaded["precision"],
        max_batch=loaded["max_batch"],
        lanes=loaded["lanes"],
        threads=loaded["threads"],
        starts=starts,
        idle_cpu=idle_cpu,
        idle_memory=idle_memory,
        batches=batches,
        rounds=rounds,
    )


class _Bench:
    """What the rounds have in common."""

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
        """Measure, and again while others disturb it; the least disturbed, and the share that others had."""
        best: tuple[T, float] | None = None
        for _ in range(1 + self._options.retries):
            before = Moment.now()
            value = measure()
            others = before.other_load(Moment.now())
            if best is None or others < best[1]:
                best = value, others
            if others <= self._options.most_other_load:
                break
        assert best is not None
        return best

    def _serve(self, load: Load, number: int) -> Served:
        options, requests = self._options, self._requests[load.kind]
        window = options.seconds * (1 if load.share is None else _OPEN_LONGER)
        arrivals: list[list[float]] = []
        if load.share is not None:
            rate = load.share * self._capacity() / options.clients
            arrivals = [loads.poisson(rate, window, number * options.clients + i) for i in range(options.clients)]
        self._closed(requests, load.connections or options.clients, options.seconds * _WARM_UP)
        processes = self._server.processes()
        metrics, threads = self._server.metrics(self._model), machine.cpu_by_thread(processes)
        cpu = self._server.cpu_seconds()
        if load.share is None:
            outcome = self._closed(requests, load.connections or 1, window)
        else:
            outcome = self._open(requests, arrivals)
        cpu = self._server.cpu_seconds() - cpu
        used = machine.cpu_by_thread(processes)
        grown = self._server.metrics(self._model)
        return Served(
            outcome,
            window,
            cpu,
            {name: seconds - threads.get(name, 0.0) for name, seconds in used.items()},
            {name: value - metrics.get(name, 0.0) for name, value in grown.items()},
            machine.memory(processes),
            arrivals,
        )

    def _capacity(self) -> float:
        """Images a second that the service has answered in the best of the closed loops that the open ones repeat."""
        return max(statistics.median(rates) for load, rates in self._reached.items() if load.kind == OPEN_KIND)

    def _closed(self, requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
        clients = min(self._options.clients, connections)
        shares = [connections // clients + (index < connections % clients) for index in range(clients)]
        return self._send(
            self._pool.submit(client.run_closed, self._server.port, requests, share, seconds) for share in shares
        )

    def _open(self, requests: Sequence[bytes], arrivals: Sequence[Sequence[float]]) -> Outcome:
        return self._send(self._pool.submit(client.run_open, self._server.port, requests, each) for each in arrivals)

    def _send(self, jobs: Iterable[Future[Outcome]]) -> Outcome:
        outcome = Outcome()
        for job in list(jobs):  # all of them begin
            outcome.extend(job.result())
        return outcome


def images_per_second(served: Served, load: Load) -> float:
    """Images answered well. An answer counts by the share of its time that lies in the window: the last ones come when
    the others have ended, and with 64 images each they are many."""
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
    """What the service uses while nobody asks."""
    started, cpu = time.perf_counter(), serving.cpu_seconds()
    time.sleep(seconds)
    share = (serving.cpu_seconds() - cpu) / (time.perf_counter() - started)
    return share, machine.memory(serving.processes())


@contextmanager
def _pool(workers: int) -> Iterator[Pool]:
    """Processes that are started afresh, not copies of this one with its engines' threads."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_import, range(workers)))
        yield pool


def _import(_: int) -> None:
    """Importing this module is the work: no measurement waits for it."""
