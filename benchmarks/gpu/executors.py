"""Executors on a GPU, one after the other, each in a process of its own.

If one crashes, hangs or loses the device, the others are still measured: a lost device stays lost for its process only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.timing import interleave
from models.artifact import golden, manifest
from models.artifact.manifest import Precision
from models.imaging.preprocess import UInt8Array
from models.runtime.engine_cache import default_folder
from service import executors
from service.executors.base import Executor, Source, compute
from service.registry.verification import check_golden

BATCHES = (1, 8, 32, 64)
LIMIT_SECONDS = 120.0
"""Time limit of a process: a kernel that hangs would otherwise end the run without a report."""
_ANSWER = frozenset({"probabilities"})

A = TypeVar("A")
T = TypeVar("T")


class ProcessFailed(Exception):
    """A process crashed or hung."""


@dataclass(frozen=True)
class Kind:
    """An executor in one precision, for a version."""

    version: Path
    executor: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.version.parent.name}, {self.executor} {self.precision}"


@dataclass(frozen=True)
class GpuRow:
    """One executor in one precision at one batch size; images per second."""

    model: str
    executor: str
    precision: Precision
    batch: int
    latency_ms: float
    """Time of a single batch."""
    one_stream: float
    all_streams: float
    """With as many batches at the same time as the executor computes."""


def load(kind: Kind) -> Executor:
    """Load an executor on the first GPU."""
    runtime, described = executors.find(kind.executor), manifest.read(kind.version)
    artifact = runtime.select_artifact(described, kind.precision)
    return runtime.make(Source(kind.version, described, artifact, kind.precision, 1, cache=default_folder()))


def examine(kind: Kind) -> list[GpuRow]:
    """Check an executor against the golden images, then time it.

    Raises:
        LoadError: the answers are wrong.
    """
    images, logits = golden.read(kind.version / manifest.GOLDEN_FILE)
    with closing(load(kind)) as executor:
        check_golden(executor, images, logits, kind.version.parent.name, kind.precision)
        sizes = [size for size in BATCHES if size <= max(executor.buckets, default=size)]
        return [measure(executor, images[np.arange(size) % len(images)], kind) for size in sizes]


def in_own_process(function: Callable[[A], T], argument: A, seconds: float = LIMIT_SECONDS) -> T:
    """Call a function in a new process, which shares no state with this one.

    Args:
        function: what to call; it, its argument and its result are pickled.
        argument: its argument.
        seconds: time limit, after which the process is killed.

    Raises:
        ProcessFailed: the process ended without a result, or not in time.
        Exception: the one that the function raised.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_outcome, args=(function, argument, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise ProcessFailed(f"no result within {seconds:g} s: the process was killed")
        raised, outcome = receiver.recv()
    except EOFError:
        process.join()
        raise ProcessFailed(f"the process ended without a result, with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if raised:
        raise outcome
    return outcome  # type: ignore[no-any-return]


def _send_outcome(function: Callable[[A], T], argument: A, sender: Connection) -> None:
    outcome: tuple[bool, object]
    try:
        outcome = False, function(argument)
    except Exception as error:
        outcome = True, error
    sender.send(outcome)


def measure(executor: Executor, pixels: UInt8Array, kind: Kind) -> GpuRow:
    """Time batches of pixels, uint8 [n, H, W, C], one at a time and several at the same time."""
    run = partial(compute, executor, pixels, _ANSWER)
    batch = len(pixels)
    seconds = float(np.median(interleave({"one": run}, f"{kind} {batch}", rounds=3)["one"]))
    count = max(20, int(0.7 / seconds))
    with ThreadPoolExecutor(executor.concurrent_batches) as pool:
        started = time.perf_counter()
        for done in [pool.submit(run) for _ in range(count)]:
            done.result()
        together = (time.perf_counter() - started) / count
    model = kind.version.parent.name
    return GpuRow(model, kind.executor, kind.precision, batch, seconds * 1000, batch / seconds, batch / together)
