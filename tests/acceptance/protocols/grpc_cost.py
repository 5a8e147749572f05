"""Line 3: CPU time of the service per request of a 224 x 224 tensor, over gRPC and as binary tensors over HTTP.

The executor is simulated, and 32 calls are in flight. Rounds of both protocols alternate, on one process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from export.build import build
from tests.acceptance.faults.served import ROOT, serve
from tests.acceptance.protocols.tensor_load import IN_FLIGHT, MODEL, SIDE
from tests.acceptance.server import free_port
from tests.support.networks import make_checkpoint
from tests.support.worker_processes import cpu_seconds

QUICK = bool(os.environ.get("PROTOCOLS_QUICK"))
ROUNDS = 2 if QUICK else 7
REQUESTS = 2000 if QUICK else 6000
MAX_RATIO = 1.4
_EXECUTOR = ("--executor", "simulated:2", "--workers", "1", "--log-level", "warning")


def check() -> tuple[bool, str]:
    """Interleaved rounds, and their medians."""
    costs: dict[str, list[float]] = {"http": [], "grpc": []}
    with TemporaryDirectory(prefix="protocols-") as folder:
        make_checkpoint("resnet18", size=SIDE).save(Path(folder) / "checkpoint.safetensors")
        build(Path(folder) / "checkpoint.safetensors", Path(folder) / "repository", MODEL)
        port = free_port()
        flags = ("--repository", f"{folder}/repository", "--grpc-port", str(port))
        with serve(*_EXECUTOR, *flags) as service:
            ports = {"http": service.port, "grpc": port}
            for number in range(ROUNDS + 1):
                for protocol in costs:
                    requests = REQUESTS if number else REQUESTS // 3
                    seconds, rate = _measure(protocol, ports[protocol], requests, service.process.pid)
                    if number:  # the first round warms up
                        costs[protocol].append(seconds)
                        print(
                            f"  round {number}, {protocol}: {seconds * 1e6:.0f} µs, {rate:.0f} per second", flush=True
                        )
    http, grpc = (statistics.median(costs[protocol]) for protocol in ("http", "grpc"))
    return grpc <= MAX_RATIO * http, (
        f"CPU time per request with {IN_FLIGHT} in flight, medians of {ROUNDS} rounds: HTTP {http * 1e6:.0f} µs, gRPC "
        f"{grpc * 1e6:.0f} µs, ratio {grpc / http:.2f} (at most {MAX_RATIO})"
    )


def _measure(protocol: str, port: int, requests: int, pid: int) -> tuple[float, float]:
    """CPU time per request in seconds, and requests per second."""
    command = [sys.executable, "-m", "tests.acceptance.protocols.tensor_load", protocol, str(port), str(requests)]
    before, started = cpu_seconds(pid), time.monotonic()
    subprocess.run(command, check=True, cwd=ROOT)
    return (cpu_seconds(pid) - before) / requests, requests / (time.monotonic() - started)
