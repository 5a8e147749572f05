"""The service with an executor on a GPU, under the load of clients in a closed loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gpu_executors import Kind
from benchmarks.serve import payloads, server
from benchmarks.serve.client import run_closed

_CLIENTS = (1, 16, 64)
_SECONDS = 5.0


@dataclass(frozen=True)
class Seen:
    """What so many clients saw."""

    clients: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests that were not answered with 200."""


def load(kind: Kind, photographs: Sequence[bytes]) -> Iterator[Seen]:
    """Start the service, and load it with several numbers of clients.

    Args:
        kind: what it serves.
        photographs: JPEG files, one a request.

    Raises:
        ServerFailed: it does not serve the version.
    """
    repository, name = kind.version.parents[1], kind.version.parent.name
    options = ["--repository", str(repository), "--model", name]
    options += ["--executor", kind.executor, "--precision", kind.precision]
    requests = payloads.single(photographs, "JPEG", name)
    with server.running(options) as serving:
        for clients in _CLIENTS:
            outcome = run_closed(serving.port, requests, clients, _SECONDS)
            answered = outcome.statuses.count(200)
            p50, p99 = np.percentile(outcome.seconds, [50, 99]) * 1000
            failed = len(outcome.statuses) - answered
            yield Seen(clients, answered / _SECONDS, float(p50), float(p99), failed)
