"""Line 2: CPU time per request of one process, of one worker and of four, with executors of fixed service time."""

from __future__ import annotations

import io
import os
import re
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import httpx
from PIL import Image

from export.build import build
from tests.acceptance.faults.served import ROOT, ServedProcess
from tests.acceptance.faults.served import serve as serve_process
from tests.acceptance.workers import full_load
from tests.acceptance.workers.served import SIMULATED
from tests.support.networks import make_checkpoint
from tests.support.worker_processes import cpu_seconds, find_processes

QUICK = bool(os.environ.get("WORKERS_QUICK"))
"""One round of two seconds: shows that the script works, and says nothing of the cost."""
ROUNDS = 1 if QUICK else 3
SECONDS = 2 if QUICK else 10
WARM_UP_SECONDS = 1 if QUICK else 4
CONNECTIONS = 32
MAX_SPLIT_RATIO = 1.15
MAX_WORKERS_RATIO = 1.10
MAX_ENGINE_SECONDS = 40e-6
CLIENTS, IN_FLIGHT = 2, 64
"""Processes that send decoded images to the engine process, and the requests of each."""
LINEAR_CPUS = 16
"""CPUs from which on throughput is compared instead of CPU time."""


@dataclass(frozen=True)
class Cost:
    """CPU time per request."""

    seconds: float
    """Of all processes of the service."""
    engine_seconds: float
    """Of the engine process; 0 if there is none."""
    rate: float
    """Requests per second."""
    batch: float
    """Images per batch."""


def check() -> tuple[bool, str]:
    """Interleaved rounds, and their medians."""
    with TemporaryDirectory(prefix="workers-") as folder:
        repository, script = make_repository(Path(folder)), _write_script(Path(folder))
        costs: dict[str, list[Cost]] = {}
        with ExitStack() as stack:
            sides: dict[str, ServedProcess] = {
                name: stack.enter_context(side) for name, side in _sides(repository).items()
            }
            engine = find_processes(sides["1 worker"].process.pid, sides["1 worker"].port).engine
            loads: list[Cost] = []
            for number in range(ROUNDS):
                for name, service in sides.items():
                    cost = measure(service, script)
                    costs.setdefault(name, []).append(cost)
                    print(f"  round {number + 1}, {name}: {_describe(cost)}", flush=True)
                loads.append(_measure_engine(engine, sides["1 worker"]))
                print(f"  round {number + 1}, decoded images: {_describe(loads[-1])}", flush=True)
    one, split, four = (
        statistics.median(cost.seconds for cost in costs[name]) for name in ("one process", "1 worker", "4 workers")
    )
    full = statistics.median(cost.engine_seconds for cost in loads)
    batch, rate = (statistics.median(getattr(cost, name) for cost in loads) for name in ("batch", "rate"))
    few_cpus = len(os.sched_getaffinity(0)) < LINEAR_CPUS
    holds = split <= MAX_SPLIT_RATIO * one and full <= MAX_ENGINE_SECONDS and four <= MAX_WORKERS_RATIO * split
    return holds and few_cpus, (
        f"CPU time per request, medians: one process {one * 1e6:.0f} µs, 1 worker and engine process "
        f"{split * 1e6:.0f} µs ({split / one:.3f} of it, {MAX_SPLIT_RATIO}), 4 workers {four * 1e6:.0f} µs "
        f"({four / split:.3f} of 1 worker, {MAX_WORKERS_RATIO}); engine process {full * 1e6:.1f} µs "
        f"({MAX_ENGINE_SECONDS * 1e6:.0f}) at {rate:.0f} decoded images per second, {batch:.1f} per batch"
        + ("" if few_cpus else "; on 16 CPUs the throughput of 1 to 8 workers is to be measured with wrk elsewhere")
    )


def _sides(repository: Path) -> dict[str, AbstractContextManager[ServedProcess]]:
    """The services, by name."""
    where = ("--repository", str(repository), "--log-level", "warning")
    one = "tests.acceptance.workers.one_worker"
    return {
        "one process": serve_process("--workers", "1", *SIMULATED, *where),
        "1 worker": serve_process(*SIMULATED, *where, module=one),
        "4 workers": serve_process("--workers", "4", *SIMULATED, *where),
    }


def _measure_engine(engine: int, service: ServedProcess) -> Cost:
    """Send decoded images to an engine process, without HTTP: few CPUs decode too slowly to load it."""
    full_load.send(engine, CLIENTS, IN_FLIGHT, WARM_UP_SECONDS)
    before, (_, images, batches) = cpu_seconds(engine), _counts(service)
    answered = full_load.send(engine, CLIENTS, IN_FLIGHT, SECONDS)
    seconds, (_, images_after, batches_after) = cpu_seconds(engine) - before, _counts(service)
    batch = (images_after - images) / (batches_after - batches)
    return Cost(seconds / answered, seconds / answered, answered / SECONDS, batch)


def measure(service: ServedProcess, script: Path) -> Cost:
    """Send requests for some seconds, after a warm-up."""
    _send(service, script, WARM_UP_SECONDS)
    found = find_processes(service.process.pid, service.port)
    before, counts = _cpu(found.all, found.engine), _counts(service)
    _send(service, script, SECONDS)
    after, later = _cpu(found.all, found.engine), _counts(service)
    requests, images, batches = (now - then for now, then in zip(later, counts, strict=True))
    return Cost(
        (after[0] - before[0]) / requests, (after[1] - before[1]) / requests, requests / SECONDS, images / batches
    )


def _cpu(pids: Sequence[int], engine: int) -> tuple[float, float]:
    return sum(map(cpu_seconds, pids)), cpu_seconds(engine) if engine else 0.0


def _counts(service: ServedProcess) -> tuple[float, float, float]:
    """Requests, images in batches, and batches, since the start."""
    text = httpx.get(f"{service.url}/metrics", timeout=30.0).text
    requests = sum(map(float, re.findall(r'^resnet_requests_total{model="[^"]+",status="200"} (\S+)$', text, re.M)))
    return requests, service.metric("resnet_batch_size_sum"), service.metric("resnet_batch_size_count")


def _send(service: ServedProcess, script: Path, seconds: int) -> None:
    url = urlsplit(service.url)
    target = f"http://{url.netloc}/v1/classify"
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "-s", str(script), target]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"requests failed:\n{done.stdout}")


def make_repository(folder: Path) -> Path:
    """A network for images of 224 x 224 with 1,000 classes; its weights do not matter."""
    make_checkpoint("resnet18", size=224, classes=1000).save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", "simulated")
    return folder / "repository"


def _write_script(folder: Path) -> Path:
    """A script for wrk that sends a photograph of 256 x 256 pixels."""
    content = io.BytesIO()
    with Image.open(ROOT / "export" / "photographs" / "cat.jpg") as image:
        image.convert("RGB").resize((256, 256)).save(content, "JPEG", quality=85)
    photograph, script = folder / "photograph.jpg", folder / "post.lua"
    photograph.write_bytes(content.getvalue())
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "image/jpeg"\n'
        f'wrk.body = io.open("{photograph}", "rb"):read("*a")\n'
    )
    return script


def _describe(cost: Cost) -> str:
    return (
        f"{cost.seconds * 1e6:.0f} µs per request, engine process {cost.engine_seconds * 1e6:.1f} µs, "
        f"{cost.rate:.0f} requests/s, {cost.batch:.1f} images per batch"
    )
