"""The service as a child process: start, queries for models and metrics, end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.system import cpu_seconds, process_tree
from service.registry.registry import LOADING
from service.remote.connection import NO_ENGINE

_SECONDS_TO_START = 120.0
_SECONDS_TO_END = 30.0
_PAUSE = 0.005
"""Seconds between two queries of a starting service; the error of its start time."""


class ServerFailed(Exception):
    """The service did not start; the message has the reason."""


@dataclass(frozen=True)
class Server:
    """A service that is ready."""

    process: subprocess.Popen[bytes]
    port: int
    ready_seconds: float
    """Time from the start to readiness."""

    def get(self, path: str) -> bytes:
        status, body = _get(self.port, path)
        if status != 200:
            raise ServerFailed(f"{path} answered {status}: {body[:200]!r}")
        return body

    def model(self, name: str | None) -> dict[str, Any]:
        """The entry of a model in `/v1/models`; None for the default model."""
        models: list[dict[str, Any]] = json.loads(self.get("/v1/models"))["models"]
        return next(model for model in models if name in (None, model["name"]))

    def metrics(self, model: str) -> dict[str, float]:
        """Sums and counts of a model's histograms, by name and stage, such as `resnet_stage_seconds_sum decode`."""
        values: dict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(self.get("/metrics").decode()):
            for sample in family.samples:
                if sample.labels.get("model") == model and sample.name.endswith(("_sum", "_count")):
                    values[" ".join([sample.name, *filter(None, [sample.labels.get("stage")])])] += sample.value
        return values

    def cpu_by_process(self) -> dict[str, float]:
        """CPU seconds of each process, by its name in /metrics; that of a service of one process is `service`."""
        families = text_string_to_metric_families(self.get("/metrics").decode())
        (family,) = (family for family in families if family.name == "process_cpu_seconds")
        samples = (sample for sample in family.samples if sample.name.endswith("_total"))
        return {sample.labels.get("process", "service"): sample.value for sample in samples}

    def processes(self) -> list[int]:
        return process_tree(self.process.pid)

    def cpu_seconds(self) -> float:
        """CPU time of the service and its child processes."""
        return cpu_seconds(self.processes())


@contextmanager
def running(options: Sequence[str]) -> Iterator[Server]:
    """Start `python -m service` with these options on a free port and wait until it is ready.

    Raises:
        ServerFailed: the service ended, has nothing to serve, or was not ready within two minutes.
    """
    port = free_port()
    command = [sys.executable, "-m", "service", *options, "--port", str(port), "--log-level", "warning"]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    try:
        wait_until_ready(process, port)
        yield Server(process, port, time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Query `/readyz` until the service is ready.

    Raises:
        ServerFailed: the service ended, has nothing to serve, or was not ready within two minutes.
    """
    end = time.perf_counter() + _SECONDS_TO_START
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise ServerFailed(f"the service ended with {process.returncode}; its output has the reason")
        try:
            status, body = _get(port, "/readyz")
            if status == 200:
                return
            if (reasons := json.loads(body)["reasons"]) not in ([LOADING], [NO_ENGINE]):
                raise ServerFailed(f"the service is not ready: {'; '.join(reasons)}")
        except (OSError, HTTPException):
            pass
        time.sleep(_PAUSE)
    raise ServerFailed(f"the service was not ready within {_SECONDS_TO_START:.0f} s")


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
