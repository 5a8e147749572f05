"""A service under the load of clients in a closed loop, with nothing but the standard library."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Lock, Thread

import numpy as np

from models.manifest import Precision

ROOT = Path(__file__).parents[1]
_CLIENTS = (1, 16, 64)
_SECONDS = 5.0


class NotServed(Exception):
    """A service does not serve a version; the message says why."""


@dataclass(frozen=True)
class Load:
    """What the clients saw."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests that were not answered with 200."""


def serve(version: Path, name: str, precision: Precision, bodies: Sequence[bytes]) -> Iterator[tuple[int, Load]]:
    """A service process, and loads of several numbers of clients."""
    command = [sys.executable, "-m", "service", "--port", "0", "--repository", str(version.parents[1])]
    command += ["--model", version.parent.name, "--executor", name, "--precision", precision, "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        port = _ready(process)
        for clients in _CLIENTS:
            yield clients, load("127.0.0.1", port, "/v1/classify", bodies, clients, _SECONDS)
    finally:
        process.terminate()
        process.communicate()


def _ready(process: subprocess.Popen[str]) -> int:
    """The port, once the model is loaded. Afterwards somebody goes on reading what the process writes."""
    assert process.stderr is not None
    port, said = None, []
    for line in process.stderr:
        said.append(line.strip())
        if match := re.search(r"listening on http://[^:]+:(\d+)", line):
            port = int(match[1])
        if " ready in " in line:
            break
        if "is not served" in line:
            raise NotServed(line.strip())
    if port is None:
        raise NotServed(f"the service ended: {said[-1] if said else 'and said nothing'}")
    ThreadPoolExecutor(1).submit(partial(list, process.stderr))
    return port


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
