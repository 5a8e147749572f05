"""The service with an executor on a GPU, under the load of clients in a closed loop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gpu_executors import Kind
from benchmarks.serve import payloads, server
from benchmarks.serve.client import run_closed
from benchmarks.serve.server import ServerFailed

_CLIENTS = (1, 64)
_CLIENTS_OF_MANY = 4
_SECONDS = 4.0


@dataclass(frozen=True)
class Seen:
    """What so many clients saw."""

    clients: int
    images: int
    """In each request."""
    images_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests that were not answered with 200."""


def load(kind: Kind, photographs: Sequence[bytes], options: Sequence[str] = ()) -> Iterator[Seen]:
    """Start the service, and load it with several numbers of clients.

    Args:
        kind: what it serves.
        photographs: JPEG files.
        options: more of the service's.

    Raises:
        ServerFailed: it does not serve the version, or not with this executor.
    """
    repository, name = kind.version.parents[1], kind.version.parent.name
    chosen = ["--repository", str(repository), "--model", name]
    chosen += ["--executor", kind.executor, "--precision", kind.precision, *options]
    single = payloads.single(photographs, "JPEG", name)
    many = payloads.many(photographs, "JPEG", name)
    with server.running(chosen) as serving:
        served = json.loads(serving.get(f"/v1/models/{name}"))["executor"]
        if served != kind.executor:
            raise ServerFailed(f"the service took {served} instead of {kind.executor}; what it printed says why")
        for clients in _CLIENTS:
            yield _see(serving.port, single, clients, 1)
        yield _see(serving.port, many, _CLIENTS_OF_MANY, payloads.MANY)


def _see(port: int, requests: Sequence[bytes], clients: int, images: int) -> Seen:
    outcome = run_closed(port, requests, clients, _SECONDS)
    answered = outcome.statuses.count(200)
    p50, p99 = np.percentile(outcome.seconds, [50, 99]) * 1000
    failed = len(outcome.statuses) - answered
    return Seen(clients, images, answered * images / _SECONDS, float(p50), float(p99), failed)
