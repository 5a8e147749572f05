"""The service with several numbers of workers, under the loads of `serve.workers`: a table that names the limits.

With `simulated:MS` in place of a GPU the same step shows what HTTP, decoding and the engine process take.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.serve import workers
from benchmarks.serve.workers import LoadName, WorkersRow
from models.artifact import manifest
from service.core.cpus import available_cpus
from service.supervisor.worker_count import default_workers

_CONNECTIONS = 128
_SECONDS = 3.0
"""Time of each load: with five numbers of workers and five loads, less than four minutes with the starts."""
_NO_REFUSALS = ("--max-in-flight-images", "2048", "--timeout-ms", "60000")
"""The loads with 64 images per request have 1,024 in flight, and few CPUs need seconds for them."""
FILE = "workers.json"
"""The rows, in the folder of the report."""


def serve_with_workers(
    version: Path, executor: Sequence[str], photographs: Sequence[bytes], out: Path, decode_gpu: bool = False
) -> Iterator[str]:
    """Measure with 1, 2, 4, 8 and the default number of workers. Yields the lines of a table.

    Args:
        version: version to serve.
        executor: options of the service that choose the executor and its precision.
        photographs: JPEG files of any size.
        out: folder for the rows.
        decode_gpu: measure the default number of workers a second time, with JPEG files decoded on the GPU.

    Raises:
        ServerFailed: the service does not start.
    """
    described, name, cpus = manifest.read(version), version.parent.name, available_cpus()
    made = workers.make_requests(photographs, name, described.preprocess)
    options = ["--repository", str(version.parents[1]), "--model", name, *_NO_REFUSALS, *executor]
    clients, default = max(2, cpus // 4), default_workers("gpu", cpus)
    yield f"{name}, {' '.join(executor)}; requests come from the same {cpus} CPUs, by {clients} processes."
    yield from ("", *workers.HEAD)
    runs = [(sorted({1, 2, 4, 8, default}), options, made)]
    if decode_gpu:
        files: dict[LoadName, list[bytes]] = {load: requests for load, requests in made.items() if load != "tensor"}
        runs.append(([default], [*options, "--decode-gpu", "0"], files))
    rows: list[WorkersRow] = []
    for counts, chosen, requests in runs:
        for row in workers.measure(chosen, counts, requests, _CONNECTIONS, _SECONDS, clients):
            rows.append(row)
            yield row.line()
            (out / FILE).write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
