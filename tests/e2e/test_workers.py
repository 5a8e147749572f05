"""A service of several processes, while one of them is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.load import Load
from tests.support.process import ServerProcess, running
from tests.support.service import TIMEOUT
from tests.support.tiny import Photographs
from tests.support.worker_processes import (
    Processes,
    arenas,
    client_ports,
    find_processes,
    wait_for_end,
    wait_for_workers,
    wait_until,
)

pytestmark = pytest.mark.slow
WORKERS = 2


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[ServerProcess]:
    with running("--repository", tiny_repository, "--executor", "simulated:1", "--workers", WORKERS) as server:
        yield server


def port_of(server: ServerProcess) -> int:
    return httpx.URL(server.url).port or 0


def processes_of(server: ServerProcess) -> Processes:
    """The processes, once all are connected."""
    return wait_for_workers(server.process.pid, port_of(server), WORKERS)


def wait_for_another(server: ServerProcess, killed: int) -> Processes:
    """The processes, once another one has taken the place of one that was killed."""
    wait_until(lambda: killed not in find_processes(server.process.pid, port_of(server)).all, "it has ended")
    return processes_of(server)


def count(server: ServerProcess, photograph: bytes, requests: int) -> float:
    """Send requests, and return by how much the count of /metrics grew."""

    def counted() -> float:
        lines = httpx.get(f"{server.url}/metrics", timeout=TIMEOUT).text.splitlines()
        name = 'resnet_requests_total{model="tiny",status="200"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = counted()
    with Load(port_of(server), photograph, 4, limit=requests) as load:
        load.wait()
    assert load.statuses == {200: requests}
    wait_until(lambda: counted() - before >= requests, "all requests are counted")
    return counted() - before


def test_killed_worker_loses_its_own_requests_only(server: ServerProcess, photographs: Photographs) -> None:
    port, found = port_of(server), processes_of(server)
    victim = found.workers[0]
    with Load(port, photographs[0][1], 8) as load:
        wait_until(lambda: len(load.answers) > 100 and bool(client_ports(victim, port)), "requests are answered")
        os.kill(victim, signal.SIGSTOP)
        own = client_ports(victim, port)
        os.kill(victim, signal.SIGKILL)
        replaced = wait_for_another(server, victim)
        after = len(load.answers)
        wait_until(lambda: len(load.answers) > after + 100, "further requests are answered")
    assert {answer.client_port for answer in load.lost()} == own
    assert len(load.lost()) == len(own)
    assert load.statuses.keys() == {0, 200}
    assert replaced.engine == found.engine
    assert arenas(found.engine) == WORKERS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_requests_are_answered_without_an_engine_process(
    number: signal.Signals, server: ServerProcess, photographs: Photographs
) -> None:
    found = processes_of(server)
    with Load(port_of(server), photographs[0][1], 8) as load:
        wait_until(lambda: len(load.answers) > 100, "requests are answered")
        os.kill(found.engine, number)
        replaced = wait_for_another(server, found.engine)
        wait_until(lambda: httpx.get(f"{server.url}/readyz").is_success, "the models are loaded")
        after = len(load.answers)
        wait_until(lambda: load.statuses[200] > 100 and len(load.answers) > after + 100, "requests are answered")
    assert load.statuses.keys() == {200, 503}
    assert all("\r\nretry-after: " in answer.content for answer in load.answers if answer.status == 503)
    assert sorted(replaced.workers) == sorted(found.workers)


def test_counts_survive_a_worker(server: ServerProcess, photographs: Photographs) -> None:
    assert count(server, photographs[0][1], 300) == 300
    victim = processes_of(server).workers[0]
    os.kill(victim, signal.SIGKILL)
    wait_for_another(server, victim)
    assert count(server, photographs[0][1], 300) == 300


def test_nothing_outlives_the_parent(tiny_repository: Path) -> None:
    with running("--repository", tiny_repository, "--executor", "simulated:1", "--workers", WORKERS) as server:
        found = processes_of(server)
        pidfds = [os.pidfd_open(pid) for pid in (*found.workers, found.engine)]
        server.process.kill()
        wait_for_end(pidfds)
