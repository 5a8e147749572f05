"""A closed loop of clients over HTTP, with nothing but the standard library: where no load generator is installed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from threading import Lock, Thread

import numpy as np


@dataclass(frozen=True)
class Load:
    """What the clients saw."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests that were not answered with 200."""


def load(host: str, port: int, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Have clients send one body after another, each as soon as the last is answered."""
    times: list[float] = []
    failed = 0
    lock = Lock()
    end = time.perf_counter() + seconds

    def send(client: int) -> None:
        nonlocal failed
        connection = HTTPConnection(host, port, timeout=60)
        mine, lost, turn = [], 0, client
        while (started := time.perf_counter()) < end:
            try:
                connection.request("POST", path, bodies[turn % len(bodies)], {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                answer.read()
                lost += answer.status != 200
            except (OSError, HTTPException):
                connection.close()
                lost += 1
            mine.append(time.perf_counter() - started)
            turn += 1
        connection.close()
        with lock:
            times.extend(mine)
            failed += lost

    threads = [Thread(target=send, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return Load((len(times) - failed) / seconds, float(p50), float(p99), failed)
