"""The service with several numbers of workers, under closed-loop loads whose requests come from several processes.

With `simulated:MS` as executor this measures HTTP, decoding and the engine process of a host without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.serve import client, payloads, server
from benchmarks.serve.client import Outcome
from models.imaging.preprocess import Preprocess
from service.cli.tune_timing import CpuUsage

_WARM_UP_SECONDS = 1.0

LoadName = Literal["jpeg-256", "jpeg-640", "tensor", "many-256", "many-640"]
LOADS: tuple[LoadName, ...] = ("jpeg-256", "jpeg-640", "tensor", "many-256", "many-640")
"""One JPEG file of 256 x 256 or 640 x 480 pixels per request, raw pixels, or 64 such files per request."""
HEAD = (
    "| workers | decoded by | load | connections | images/s | p50, ms | p99, ms | failed | CPU time per image, µs "
    "| of the engine process, µs | clients | limit |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)
"""Head of a table; `clients` is their share of the CPU time."""
ENGINE = "engine"
"""Name of the engine process, as /metrics has it."""
_BUSY = 0.9
"""Share of its CPUs from which on a process, or the machine, is the limit."""


@dataclass(frozen=True)
class WorkersRow:
    """The result of one load with a number of workers."""

    workers: int
    decoded_by: str
    """`CPUs`, or `GPU` for JPEG files."""
    load: str
    connections: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests with another status than 200."""
    service_us: float
    """CPU time of all processes of the service per image, in microseconds."""
    engine_us: float
    """CPU time of the engine process per image, in microseconds; of the only process if there is one."""
    client_share: float
    """CPU time of the processes that send requests, as a share of all CPU time that was used."""
    limit: str
    """The limit of the throughput, with its microseconds per image."""

    def line(self) -> str:
        """A line of the table that `HEAD` begins."""
        return (
            f"| {self.workers} | {self.decoded_by} | {self.load} | {self.connections} | {self.images_per_second:,.0f} "
            f"| {self.p50_ms:.1f} | {self.p99_ms:.1f} | {self.failed} | {self.service_us:,.0f} | {self.engine_us:,.0f} "
            f"| {self.client_share:.0%} | {self.limit} |"
        )


def make_requests(photographs: Sequence[bytes], model: str, preprocess: Preprocess) -> dict[LoadName, list[bytes]]:
    """The requests of each load, made from photographs of any size."""
    small = payloads.resized(photographs, 256, 256)
    large = payloads.resized(photographs, 640, 480)
    return {
        "jpeg-256": payloads.single(small, "JPEG", model),
        "jpeg-640": payloads.single(large, "JPEG", model),
        "tensor": payloads.tensors(payloads.pixels(photographs, preprocess), model),
        "many-256": payloads.many(small, "JPEG", model),
        "many-640": payloads.many(large, "JPEG", model),
    }


def measure(
    options: Sequence[str],
    workers: Sequence[int],
    requests: dict[LoadName, list[bytes]],
    connections: int,
    seconds: float,
    clients: int,
) -> Iterator[WorkersRow]:
    """Measure each load with each number of workers.

    Args:
        options: options of the service.
        workers: numbers of workers.
        requests: requests by load.
        connections: connections of loads with one image per request; with 64 images, an eighth of them.
        seconds: time of each measurement.
        clients: processes that send requests.

    Raises:
        ServerFailed: the service does not start.
    """
    where = "GPU" if "--decode-gpu" in options else "CPUs"
    with ProcessPoolExecutor(clients) as pool:
        for count in workers:
            with server.running([*options, "--workers", str(count)]) as serving:
                for load, made in requests.items():
                    images = payloads.MANY if load.startswith("many") else 1
                    open_at_once = connections if images == 1 else max(1, connections // 8)
                    _send(pool, clients, serving.port, made, open_at_once, _WARM_UP_SECONDS)
                    before, usage = serving.cpu_by_process(), CpuUsage.now(0.0)
                    outcome = _send(pool, clients, serving.port, made, open_at_once, seconds)
                    busy = usage.other_load(CpuUsage.now(0.0))
                    used = {name: now - before.get(name, 0.0) for name, now in serving.cpu_by_process().items()}
                    yield _row(count, where, load, open_at_once, images, seconds, outcome, used, busy)


def _send(
    pool: ProcessPoolExecutor, clients: int, port: int, requests: Sequence[bytes], connections: int, seconds: float
) -> Outcome:
    """A closed loop whose connections are shared by several processes."""
    shares = client.share(connections, clients)
    return client.gather(pool.submit(client.run_closed, port, requests, share, seconds) for share in shares)


def _row(
    workers: int,
    decoded_by: str,
    load: str,
    connections: int,
    images: int,
    seconds: float,
    outcome: Outcome,
    used: dict[str, float],
    busy: float,
) -> WorkersRow:
    """The row of a load.

    Args:
        workers, decoded_by, load, connections: as of `WorkersRow`.
        images: images per request.
        seconds: time of the measurement.
        outcome: the answers.
        used: CPU seconds of each process of the service, by its name.
        busy: share of the CPUs that was used, by whatever process.
    """
    answered = outcome.statuses.count(200)
    p50, p99 = np.percentile(outcome.seconds, [50, 99]) * 1000
    service, done = sum(used.values()), max(1, answered * images)
    return WorkersRow(
        workers,
        decoded_by,
        load,
        connections,
        answered * images / seconds,
        float(p50),
        float(p99),
        len(outcome.statuses) - answered,
        service / done * 1e6,
        used.get(ENGINE, service) / done * 1e6,
        outcome.cpu_seconds / max(1e-9, outcome.cpu_seconds + service),
        find_limit(used, busy, seconds, done),
    )


def find_limit(used: dict[str, float], busy: float, seconds: float, images: int) -> str:
    """Name the limit of the throughput: all CPUs, the interpreter of one process, or what computes.

    Args:
        used: CPU seconds of each process of the service, by its name.
        busy: share of the CPUs that was used, by whatever process.
        seconds: time of the measurement.
        images: images that were answered.
    """
    if busy >= _BUSY:
        return f"all CPUs, {busy:.0%} busy: {sum(used.values()) / images * 1e6:,.0f} µs per image in the service"
    name, busiest = max(used.items(), key=lambda item: item[1])
    if busiest >= _BUSY * seconds:
        return f"{name}: {busiest / images * 1e6:,.0f} of {seconds / images * 1e6:,.0f} µs per image"
    return f"the executor, or waiting for it: {seconds / images * 1e6:,.0f} µs per image"
