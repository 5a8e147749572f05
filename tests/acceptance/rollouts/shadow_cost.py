"""Line 2: what a shadow costs callers, with executors of a fixed time per batch."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
import numpy as np

from models.artifact.traffic import TrafficPolicy, change_traffic
from tests.acceptance.client import Timed, open_loop
from tests.acceptance.faults.case import Failed
from tests.acceptance.faults.served import serve
from tests.acceptance.rollouts.versions import copy_versions
from tests.acceptance.workers.served import EXAMPLE, TINY, check_each
from tests.support.worker_processes import wait_until

ROUNDS = 5
BATCH_MS = 10.0
HALF_SECONDS, OVERLOAD_SECONDS = 12.0, 6.0
MAX_MS = 2.0
APART = 0.05
GOODPUT = 0.97
MAX_OVERTAKEN = 0.002
"""Share of the requests: decoding may take longer than the time below, when the machine does something else."""
CLOCK_MS = 5.0
"""The service may know of a request this long after it was sent, and of its result this long before it arrives."""
NONE, SHARED, APART_NAME = "no shadow", "shadow on the same device", "shadow on a device of its own"


class BatchLine(NamedTuple):
    """A batch that the executor computed."""

    version: int
    start: float
    end: float
    images: int


@dataclass
class Service:
    """A service whose version 2 can be a shadow of version 1."""

    url: str
    traffic: Path
    log: Path

    def set_shadow(self, on: bool) -> None:
        """Have version 2 compute all images of version 1, or none."""
        policy = TrafficPolicy(weights={1: 1.0, 2: 0.0}, shadow={2: 1.0} if on else {})
        change_traffic(self.traffic, "tiny", policy)
        wait_until(lambda: bool(self._rollout()["shadows"]) is on, "the policy applies")

    def _rollout(self) -> dict[str, object]:
        content: dict[str, object] = httpx.get(f"{self.url}/v1/models/tiny/rollout", timeout=30.0).json()
        return content

    def batches(self) -> list[BatchLine]:
        """All batches so far, in the order of their ends."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [BatchLine(int(v), float(start), float(end), int(images)) for v, start, end, images in lines]


@dataclass
class Runs:
    """The answers of all rounds, by variant."""

    half: dict[str, list[Timed]] = field(default_factory=dict)
    overload: dict[str, list[Timed]] = field(default_factory=dict)


def check() -> tuple[bool, str]:
    """Batches of one image each, and of up to eight."""
    return check_each(*(partial(_check_with, max_batch) for max_batch in (1, 8)))


@contextmanager
def _serve(devices: int, max_batch: int) -> Iterator[Service]:
    with TemporaryDirectory(prefix="rollouts-") as name:
        folder = Path(name)
        copy_versions(TINY / "tiny" / "1", folder / "repository", 2)
        traffic, log = folder / "traffic.toml", folder / "batches.log"
        change_traffic(traffic, "tiny", TrafficPolicy(weights={1: 1.0, 2: 0.0}))
        options = ("--repository", str(folder / "repository"), "--traffic", str(traffic))
        executor = ("--executor", f"fixed:{BATCH_MS:g}-{devices}", "--max-batch", str(max_batch))
        module = "tests.acceptance.rollouts.fixed_service"
        with serve(*options, *executor, module=module, FIXED_LOG=str(log)) as service:
            yield Service(service.url, traffic, log)


def _check_with(max_batch: int) -> str:
    capacity = max_batch * 1000 / BATCH_MS
    runs, overtaken = Runs(), 0
    with ExitStack() as stack:
        shared, apart = (stack.enter_context(_serve(devices, max_batch)) for devices in (1, 2))
        variants = {NONE: (shared, False), SHARED: (shared, True), APART_NAME: (apart, True)}
        for turn in range(ROUNDS):
            for name, (service, on) in variants.items():
                service.set_shadow(on)
                began = time.monotonic()
                answers = _load(service, capacity / 2, HALF_SECONDS, turn)
                runs.half.setdefault(name, []).extend(answers)
                if name == SHARED:
                    overtaken += _overtaken(service, began, answers)
            for name in (NONE, SHARED):
                service, on = variants[name]
                service.set_shadow(on)
                runs.overload.setdefault(name, []).extend(_load(service, 2 * capacity, OVERLOAD_SECONDS, turn))
            print(f"  batches of up to {max_batch}: round {turn + 1} of {ROUNDS}", flush=True)
        sizes = Counter(
            batch.images for service in (shared, apart) for batch in service.batches() if batch.version == 2
        )
    return _judge(runs, max_batch, sizes, overtaken)


def _load(service: Service, rate: float, seconds: float, seed: int) -> list[Timed]:
    """Requests at the same random moments in each variant of a round."""
    return asyncio.run(open_loop(f"{service.url}/v1/models/tiny/classify", EXAMPLE, rate, seconds, seed))


def _overtaken(service: Service, began: float, answers: Sequence[Timed]) -> int:
    """Requests during which an image of the shadow has started, although they were waiting or computed."""
    starts = np.array([batch.start for batch in service.batches() if batch.version == 2])
    clock = CLOCK_MS / 1000

    def is_overtaken(answer: Timed) -> bool:
        sent = began + answer.due
        return bool(np.any((starts > sent + clock) & (starts < sent + answer.seconds - clock)))

    return sum(map(is_overtaken, answers))


def _judge(runs: Runs, max_batch: int, sizes: Counter[int], overtaken: int) -> str:
    base = _times(runs.half[NONE])
    figures, wrong = [], []
    for name, answers in runs.half.items():
        times = _times(answers)
        median, p99 = np.median(times), np.quantile(times, 0.99)
        figures.append(f"{name}: median {median:.2f} ms, p99 {p99:.2f} ms")
        rise, tail = median - np.median(base), p99 - np.quantile(base, 0.99)
        if name == SHARED and (rise > BATCH_MS / 2 or tail > BATCH_MS + MAX_MS):
            wrong.append(f"the median rises by {rise:.2f} ms, p99 by {tail:.2f} ms")
        if name == APART_NAME and max(rise / np.median(base), tail / np.quantile(base, 0.99)) > APART:
            wrong.append("with a device of its own, more than 5 % above")
        if any(answer.status != 200 for answer in answers):
            wrong.append(f"{name}: answers by status {Counter(answer.status for answer in answers)}")
    good = {name: sum(answer.status == 200 for answer in answers) for name, answers in runs.overload.items()}
    share = good[SHARED] / good[NONE]
    figures.append(f"goodput at 2 x capacity {share:.3f} ({GOODPUT})")
    if share < GOODPUT:
        wrong.append("goodput is lower")
    asked = len(runs.half[SHARED])
    figures.append(
        f"shadow: {sizes.total()} batches, by images {dict(sizes)}, {overtaken} of {asked} requests overtaken"
    )
    if overtaken > MAX_OVERTAKEN * asked:
        wrong.append("the shadow starts while requests wait")
    if set(sizes) != {1}:
        wrong.append("batches of the shadow hold several images, or there are none")
    text = f"batches of up to {max_batch}: {'; '.join(figures)}"
    if wrong:
        raise Failed(f"{text}; {'; '.join(wrong)}")
    return text


def _times(answers: Sequence[Timed]) -> np.ndarray:
    """Times of the answers, in ms."""
    return np.array([1000 * answer.seconds for answer in answers if answer.status == 200])
