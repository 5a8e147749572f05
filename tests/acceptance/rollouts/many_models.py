"""Line 5: 300 models in the memory of 20."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from tests.acceptance.rollouts.zipf_client import Reply, send_all, zipf
from tests.acceptance.server import Server, serve
from tests.support.many_models import copy_first, make_repository

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "models/pretrained/repository/fashion-mnist-resnet20/1"
IMAGE = ROOT / "models/pretrained/examples/trouser.png"
MODELS, ROOM, EXPONENT, RATE = 300, 20, 1.2, 50.0
RUN_SECONDS = float(os.environ.get("RUN_SECONDS", "200"))
OPTIONS = os.environ.get("SERVER_OPTIONS", "").split()
"""Further options of the service, such as `--workers 2`."""
ROUNDS = 3
POPULAR = 12
"""Models of the run without loads: fewer than there is room for."""
UNLIMITED = "100GB"


@dataclass
class Samples:
    """Resident memory in bytes, and open descriptors, of all processes of a service."""

    bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


def check() -> tuple[bool, str]:
    """Zipf traffic for 10 minutes, in three runs; after each, requests at the rate of its hits without loads."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "many"
        permutations = make_repository(SOURCE, repository, MODELS)
        start_seconds = _compare_starts(repository, copy_first(repository, Path(folder) / "one"))
        base, cost = _measure_cost(repository)
        limit = base + ROOM * cost
        print(f"base {base / 1e6:.1f} MB, one model {cost / 1e6:.2f} MB, limit {limit / 1e6:.1f} MB", flush=True)
        return _run(repository, limit, permutations, start_seconds)


def _run(
    repository: Path, limit: int, permutations: dict[str, NDArray[np.int64]], start_seconds: float
) -> tuple[bool, str]:
    names, image, truth = sorted(permutations), IMAGE.read_bytes(), _reference()
    ratios, wrong, undocumented, statuses = [], 0, 0, Counter[int]()
    with serve("--repository", str(repository), "--memory-limit", str(limit), *OPTIONS) as server:
        with _sampling(server) as warm:
            send_all(server.url, image, zipf(names, EXPONENT, int(RATE * 30), 99), RATE, 99)
        most, at_rest = max(warm.bytes), [_descriptors_at_rest(server)]
        for round_ in range(ROUNDS):
            before = server.metric("resnet_model_loads_total"), server.metric("resnet_model_evictions_total")
            with _sampling(server) as samples:
                drawn = zipf(names, EXPONENT, int(RATE * RUN_SECONDS), round_)
                replies = send_all(server.url, image, drawn, RATE, round_)
            loads = server.metric("resnet_model_loads_total") - before[0]
            evictions = server.metric("resnet_model_evictions_total") - before[1]
            hits = [reply.seconds for reply in replies if reply.status == 200 and reply.load_ms is None]
            alone = _without_loads(server, image, names[:POPULAR], len(hits) / RUN_SECONDS, round_)
            ratio = _p99(hits) / _p99(alone)
            ratios.append(ratio)
            most = max(most, *samples.bytes)
            at_rest.append(_descriptors_at_rest(server))
            statuses += Counter(reply.status for reply in replies)
            wrong += sum(not _is_right(reply, permutations, truth) for reply in replies if reply.status == 200)
            others = [reply for reply in replies if not _is_documented(reply)]
            undocumented += len(others)
            print(*{f"{reply.status}: {reply.content}" for reply in others[:5]}, sep="\n", end="")
            print(
                f"run {round_ + 1}: {len(replies)} requests, {len(hits)} hits, "
                f"{sum(reply.status == 200 for reply in replies) - len(hits)} waited, "
                f"{sum(reply.status == 503 for reply in replies)} refused; {loads:.0f} loads, "
                f"{evictions:.0f} left; p99 of hits {1000 * _p99(hits):.2f} ms, "
                f"{1000 * _p99(alone):.2f} ms without loads ({ratio:.2f} x); "
                f"memory up to {max(samples.bytes) / 1e6:.1f} MB in {len(samples.bytes)} samples; "
                f"descriptors up to {max(samples.descriptors)}, {at_rest[-1]} at rest",
                flush=True,
            )
    median = statistics.median(ratios)
    holds = median <= 1.5 and most <= limit and not wrong and not undocumented
    holds = holds and max(at_rest) == min(at_rest) and set(statuses) <= {200, 503}
    holds = holds and start_seconds <= 1.0
    return holds, (
        f"{dict(statuses)}, {wrong} wrong answers, {undocumented} undocumented errors; memory at most {most / 1e6:.1f} "
        f"of {limit / 1e6:.1f} MB; descriptors at rest {at_rest}; p99 of hits {median:.2f} x (1.5) that without loads; "
        f"start with {MODELS} models {start_seconds:+.2f} s (1)"
    )


def _compare_starts(many: Path, one: Path) -> float:
    """By how many seconds the start with many models is slower, as the median of three."""
    seconds: dict[Path, list[float]] = {many: [], one: []}
    for _ in range(3):
        for repository in (one, many):
            started = time.monotonic()
            with serve("--repository", str(repository), "--memory-limit", UNLIMITED, *OPTIONS):
                seconds[repository].append(time.monotonic() - started)
    print({path.name: [round(value, 2) for value in values] for path, values in seconds.items()}, flush=True)
    return statistics.median(seconds[many]) - statistics.median(seconds[one])


def _measure_cost(repository: Path) -> tuple[int, int]:
    """Memory of the service without models, and of one model, in bytes."""
    content, sizes = IMAGE.read_bytes(), []
    with serve("--repository", str(repository), "--memory-limit", UNLIMITED, *OPTIONS) as server:
        for number in range(9):
            path = f"{server.url}/v1/models/model-{number:03d}/classify"
            assert httpx.post(path, content=content, timeout=60.0).status_code == 200
            sizes.append(_resident(_processes(server)))
    cost = (sizes[-1] - sizes[0]) // (len(sizes) - 1)
    return sizes[0] - cost, cost


def _without_loads(server: Server, image: bytes, names: Sequence[str], rate: float, seed: int) -> list[float]:
    """Latencies of requests for models in memory, at a rate."""
    _have_loaded(server, image, names)
    before = server.metric("resnet_model_loads_total")
    replies = send_all(server.url, image, zipf(names, EXPONENT, int(rate * RUN_SECONDS / 2), seed), rate, seed)
    assert server.metric("resnet_model_loads_total") == before
    hits = [reply.seconds for reply in replies if reply.status == 200 and reply.load_ms is None]
    assert len(hits) >= 0.99 * len(replies), Counter(reply.status for reply in replies)
    return hits


def _have_loaded(server: Server, image: bytes, names: Sequence[str]) -> None:
    """Ask until models are in memory, and no load that would make one of them leave is under way."""
    end = time.monotonic() + 180
    while True:
        assert time.monotonic() < end, "the models are not loaded"
        index = httpx.post(f"{server.url}/v2/repository/index", json={}, timeout=60.0).json()
        states = {entry["name"]: entry["state"] for entry in index}
        missing = [name for name in names if states[name] != "READY"]
        if "LOADING" not in states.values():
            if not missing:
                return
            httpx.post(f"{server.url}/v1/models/{missing[0]}/classify", content=image, timeout=60.0)
        time.sleep(0.5)


def _descriptors_at_rest(server: Server) -> int:
    """Open descriptors once no connection, and no load, is left."""
    counts = [0]
    while len(counts) < 5 or len(set(counts[-5:])) > 1:
        time.sleep(0.5)
        counts.append(_descriptors(_processes(server)))
    return counts[-1]


def _descriptors(processes: Sequence[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes)


def _p99(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 99))


def _reference() -> NDArray[np.float32]:
    """Probabilities of the image by the network that all models are made of, computed without the service."""
    pixels = np.asarray(Image.open(IMAGE).convert("L"), np.uint8)[None, :, :, None]
    session = ort.InferenceSession(str(SOURCE / "model.onnx"), providers=["CPUExecutionProvider"])
    values: NDArray[np.float32] = session.run(["probabilities"], {session.get_inputs()[0].name: pixels})[0][0]
    return values


def _is_right(reply: Reply, permutations: dict[str, NDArray[np.int64]], truth: NDArray[np.float32]) -> bool:
    """Whether an answer has the probabilities of its model."""
    (result,) = reply.content["results"]
    order = permutations[reply.model]
    found = {item["index"]: item["probability"] for item in result["predictions"]}
    expected = {index: float(truth[order[index]]) for index in range(len(order))}
    return reply.content["model"] == reply.model and all(
        abs(found.get(index, -1.0) - value) < 1e-4 for index, value in expected.items()
    )


def _is_documented(reply: Reply) -> bool:
    """Whether an answer is a success, or a refusal that says when to come back."""
    refused = reply.status == 503 and reply.retry_after is not None and "try again in" in reply.content["detail"]
    return reply.status == 200 or refused


@contextmanager
def _sampling(server: Server) -> Iterator[Samples]:
    """Sample memory and descriptors ten times per second."""
    samples, stop = Samples(), threading.Event()

    def sample() -> None:
        processes = _processes(server)
        while not stop.wait(0.1):
            samples.bytes.append(_resident(processes))
            samples.descriptors.append(_descriptors(processes))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def _processes(server: Server) -> list[int]:
    """Ids of all processes of the service."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [server.process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _resident(processes: Sequence[int]) -> int:
    """Sum of VmRSS."""
    total = 0
    for pid in processes:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    return total
