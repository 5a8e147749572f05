"""The service with an executor on a GPU, under closed-loop load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gpu.executors import Kind
from benchmarks.serve import payloads, server
from benchmarks.serve.client import run_closed
from benchmarks.serve.server import ServerFailed

_CLIENTS = (1, 64)
_CLIENTS_OF_MANY = 4
_SECONDS = 4.0


@dataclass(frozen=True)
class ServedLoad:
    """Results of a closed loop of clients."""

    clients: int
    images: int
    """Images per request."""
    images_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests with another status than 200."""


def load(kind: Kind, photographs: Sequence[bytes], options: Sequence[str] = ()) -> Iterator[ServedLoad]:
    """Start the service and measure it with several numbers of clients.

    Args:
        kind: version, executor and precision to serve.
        photographs: JPEG files.
        options: further options of the service.

    Raises:
        ServerFailed: the service does not serve the version, or serves it with another executor.
    """
    repository, name = kind.version.parents[1], kind.version.parent.name
    chosen = ["--repository", str(repository), "--model", name]
    chosen += ["--executor", kind.executor, "--precision", kind.precision, *options]
    single = payloads.single(photographs, "JPEG", name)
    many = payloads.many(photographs, "JPEG", name)
    with server.running(chosen) as serving:
        served = json.loads(serving.get(f"/v1/models/{name}"))["executor"]
        if served != kind.executor:
            raise ServerFailed(f"the service took {served} instead of {kind.executor}; its output has the reason")
        for clients in _CLIENTS:
            yield _measure(serving.port, single, clients, 1)
        yield _measure(serving.port, many, _CLIENTS_OF_MANY, payloads.MANY)


def _measure(port: int, requests: Sequence[bytes], clients: int, images: int) -> ServedLoad:
    outcome = run_closed(port, requests, clients, _SECONDS)
    answered = outcome.statuses.count(200)
    p50, p99 = np.percentile(outcome.seconds, [50, 99]) * 1000
    failed = len(outcome.statuses) - answered
    return ServedLoad(clients, images, answered * images / _SECONDS, float(p50), float(p99), failed)
