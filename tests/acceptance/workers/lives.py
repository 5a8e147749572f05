"""Line 4: workers, the engine process and the parent are killed under load."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import httpx

from tests.acceptance.faults.case import expect
from tests.acceptance.workers.served import EXAMPLE, SIMULATED, Workers, check_each, serve
from tests.support.load import Load
from tests.support.worker_processes import (
    arenas,
    client_ports,
    links,
    memory_mb,
    wait_for_end,
    wait_until,
)

WORKERS = 4
CONNECTIONS = 16
TIMES = 10
MAX_WORKER_SECONDS = 1.0
MAX_ENGINE_SECONDS = 5.0
"""Beside the time to load the models."""
MAX_ORPHAN_SECONDS = 2.0
MAX_GROWTH_MB = 20.0
_WARM_UP_SECONDS = 2.0
_BETWEEN_SECONDS = 1.2
"""A process that ends within a second of its start is replaced after a pause, if this happens again and again."""


def check() -> tuple[bool, str]:
    """Each life; all figures."""
    return check_each(kill_workers, kill_engine, kill_parent)


@dataclass(frozen=True)
class Holdings:
    """Descriptors and memory of the processes of a service."""

    descriptors: Sequence[int]
    """Number of descriptors of the engine process, the parent and the workers together."""
    arenas: int
    """Memories for images that the engine process has open."""
    memory_mb: float

    @classmethod
    def of(cls, workers: Workers) -> Holdings:
        """Those of a service that answers no requests. Maps of memory that has grown are not counted."""
        found = workers.wait()
        counts = [_descriptors(found.engine), _descriptors(found.parent), sum(map(_descriptors, found.workers))]
        return cls(counts, arenas(found.engine), sum(map(memory_mb, found.all)))

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.arenas} arenas, {self.memory_mb:.0f} MB"


def _descriptors(pid: int) -> int:
    return sum(not link.startswith("/memfd") for link in links(pid).values())


def kill_workers() -> str:
    """kill -9 of a worker under load, ten times: only its requests in flight are lost."""
    chosen = random.Random(1)
    seconds, ports = [], set()
    with serve(WORKERS, *SIMULATED) as workers:
        _warm_up(workers)
        before = Holdings.of(workers)
        with Load(workers.port, EXAMPLE, CONNECTIONS) as load:
            for _ in range(TIMES):
                time.sleep(_BETWEEN_SECONDS)
                victim = chosen.choice(workers.wait().workers)
                os.kill(victim, signal.SIGSTOP)  # so that its connections stay those that are read
                ports |= client_ports(victim, workers.port)
                os.kill(victim, signal.SIGKILL)
                seconds.append(wait_until(partial(_replaced, workers, victim), "a worker is replaced"))
            time.sleep(_BETWEEN_SECONDS)
        after = _settled(workers, before)
        in_flight = _metric(workers, "resnet_requests_in_flight")
    lost = load.lost()
    others = [answer for answer in lost if answer.client_port not in ports]
    figures = (
        f"worker killed {TIMES} times: answers by status {load.statuses}, {len(lost)} lost on {len(ports)} connections "
        f"of killed workers, {len(others)} others, replaced after at most {max(seconds):.2f} s "
        f"({MAX_WORKER_SECONDS:g}), before {before}, after {after}, in flight {in_flight:.0f}"
    )
    expect(set(load.statuses) <= {0, 200} and not others, f"others saw errors: {figures}")
    expect(len(lost) <= len(ports), f"more requests lost than connections: {figures}")
    expect(max(seconds) <= MAX_WORKER_SECONDS, f"replaced late: {figures}")
    expect(in_flight == 0, f"requests in flight: {figures}")
    _expect_same(before, after, figures)
    return figures


def kill_engine() -> str:
    """kill -9 and SIGSTOP of the engine process under load, ten times each: each request gets an answer."""
    seconds: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGSTOP: []}
    with serve(WORKERS, *SIMULATED) as workers:
        _warm_up(workers)
        before = Holdings.of(workers)
        loading = _metric(workers, "resnet_model_load_seconds_sum")
        with Load(workers.port, EXAMPLE, CONNECTIONS) as load:
            for number in [*seconds] * TIMES:
                time.sleep(_BETWEEN_SECONDS)
                victim = workers.wait().engine
                started = time.monotonic()
                os.kill(victim, number)
                wait_until(partial(_replaced, workers, victim), "the engine process is replaced")
                wait_until(lambda: _classifies(workers), "images are classified again")
                seconds[number].append(time.monotonic() - started)
        after = _settled(workers, before)
    longest = max(answer.seconds for answer in load.answers)
    refused = [answer for answer in load.answers if answer.status == 503]
    waits = [answer for answer in refused if "\r\nretry-after:" not in answer.content]
    figures = (
        f"engine process killed and stopped {TIMES} times each: answers by status {load.statuses}, longest "
        f"{longest:.2f} s, {len(waits)} of {len(refused)} refusals without Retry-After, back after at most "
        f"{max(seconds[signal.SIGKILL]):.2f} s and {max(seconds[signal.SIGSTOP]):.2f} s "
        f"({MAX_ENGINE_SECONDS:g} + {loading:.2f} to load), before {before}, after {after}"
    )
    expect(set(load.statuses) <= {200, 503}, f"other answers than 200 and 503: {figures}")
    expect(not waits, f"refused without Retry-After: {figures}")
    expect(longest <= MAX_ENGINE_SECONDS, f"a request hung: {figures}")
    expect(max(map(max, seconds.values())) <= MAX_ENGINE_SECONDS + loading, f"back late: {figures}")
    _expect_same(before, after, figures)
    return figures


def kill_parent() -> str:
    """kill -9 of the parent under load: no process is left."""
    with serve(WORKERS, *SIMULATED) as workers, Load(workers.port, EXAMPLE, CONNECTIONS) as load:
        time.sleep(_WARM_UP_SECONDS)
        found = workers.wait()
        pidfds = [os.pidfd_open(pid) for pid in (*found.workers, found.engine)]
        workers.service.process.kill()
        seconds = wait_for_end(pidfds)
    figures = f"parent killed: {len(pidfds)} processes ended after {seconds:.2f} s ({MAX_ORPHAN_SECONDS:g})"
    expect(load.statuses.get(200, 0) > 0, f"there was no load: {figures}")
    expect(seconds <= MAX_ORPHAN_SECONDS, figures)
    return figures


def _warm_up(workers: Workers) -> None:
    with Load(workers.port, EXAMPLE, 2 * CONNECTIONS):
        time.sleep(_WARM_UP_SECONDS)


def _replaced(workers: Workers, victim: int) -> bool:
    """Whether a process has ended, and another one in its place is connected to all others."""
    found = workers.find()
    return (
        victim not in found.all
        and len(found.workers) == WORKERS
        and bool(found.engine)
        and arenas(found.engine) == WORKERS
    )


def _classifies(workers: Workers) -> bool:
    answer = httpx.post(f"{workers.service.url}/v1/classify", content=EXAMPLE, timeout=30.0)
    ready = httpx.get(f"{workers.service.url}/readyz", timeout=30.0)
    return answer.is_success and ready.is_success


def _metric(workers: Workers, name: str) -> float:
    return workers.service.metric(name)


def _settled(workers: Workers, before: Holdings) -> Holdings:
    """Holdings after the connections of the clients have ended, and a further load has warmed up new processes."""
    _warm_up(workers)
    after = Holdings.of(workers)
    deadline = time.monotonic() + 10.0
    while after.descriptors != before.descriptors and time.monotonic() < deadline:
        time.sleep(0.2)
        after = Holdings.of(workers)
    return after


def _expect_same(before: Holdings, after: Holdings, figures: str) -> None:
    expect(list(after.descriptors) == list(before.descriptors), f"descriptors were not given back: {figures}")
    expect(after.arenas == before.arenas, f"memory for images was not given back: {figures}")
    expect(after.memory_mb - before.memory_mb <= MAX_GROWTH_MB, f"memory was not given back: {figures}")
