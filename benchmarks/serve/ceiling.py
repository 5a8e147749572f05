"""The most that a machine can do with the engine and the decoder of the service, and nothing else to do.

Each is measured on all processors, from memory. Work that needs both of them, one after the other, cannot be done
faster than 1 / (1 / engine + 1 / decode) images a second, whatever stands around them.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor as Pool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.artifact import golden, manifest
from models.imaging.preprocess import Preprocess, UInt8Array
from service import executors
from service.core.choices import DecodeMode
from service.core.settings import Settings
from service.decoding import decoder as decoding
from service.executors.base import Executor, Source, compute

_ANSWER = frozenset({"probabilities"})


@dataclass(frozen=True)
class Rate:
    """How fast one of the two is alone."""

    images_per_second: float
    seconds: float
    """Median of one batch, or of the decoding of one image."""
    cpu_seconds: float
    """Processor time of one image."""


def together(*rates: float) -> float:
    """Images a second of several that share all processors, each of which alone does so many."""
    return 1 / sum(1 / rate for rate in rates)


class Engines:
    """The executors of a version, as the service loads them but with all processors.

    On a CPU they are also tried as one for each processor, with a thread each: a small network gains little from more.
    """

    def __init__(self, version: Path, settings: Settings, cpus: int) -> None:
        described = manifest.read(version)
        runtime = executors.find(settings.executor)
        artifact = runtime.choose(described, settings.precision)
        source = Source(version, described, artifact, settings.precision, cpus, cache=settings.cache)
        self._images, _ = golden.read(version / manifest.GOLDEN_FILE)
        self.arrangements = {"together": runtime.load(source)}
        (first, *_) = self.arrangements["together"]
        if first.computes and first.device == "cpu" and cpus > 1:
            self.arrangements["apart"] = runtime.load(replace(source, threads=1), copies=cpus)

    def batches(self, max_batch: int, wanted: Sequence[int]) -> list[int]:
        """Sizes to measure: 1, the service's largest batch, and of those that are wanted what can be computed.

        A larger batch than the service's may be faster by a little, and the ceiling is to be one. Where nothing is
        computed and any batch takes the same time, it would only be another engine.
        """
        (first, *_) = self.arrangements["together"]
        possible = [size for size in wanted if first.computes and (not first.buckets or size <= first.buckets[-1])]
        return sorted({1, max_batch, *possible})

    def measure(self, arrangement: str, batch: int, seconds: float) -> Rate:
        """Compute batches on every lane at once."""
        pixels = self._images[np.arange(batch) % len(self._images)]
        lanes = [executor for executor in self.arrangements[arrangement] for _ in range(executor.lanes)]
        for executor in lanes:
            _compute(executor, pixels, 0.0)
        taken: list[list[float]] = [[] for _ in lanes]

        def work(index: int) -> None:
            taken[index] = _compute(lanes[index], pixels, seconds)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(lanes))]
        cpu = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cpu = time.process_time() - cpu
        count = batch * sum(len(each) for each in taken)
        rate = sum(batch * len(each) / sum(each) for each in taken)
        return Rate(rate, statistics.median(second for each in taken for second in each), cpu / count)

    def in_turn(self, files: Sequence[bytes], preprocess: Preprocess, mode: DecodeMode, seconds: float) -> float:
        """Median seconds to decode an image file and then compute it, on all processors.

        It is more than the sum of what both take alone: each finds the caches full of the other's data.
        """
        (executor, *_) = self.arrangements["together"]
        _compute(executor, self._images[:1], 0.0)
        taken: list[float] = []
        now = time.perf_counter()
        end = now + seconds
        while not taken or now < end:
            for data in files:
                compute(executor, decoding.decode(data, preprocess, mode).pixels[np.newaxis], _ANSWER)
                taken.append(time.perf_counter() - now)
                now += taken[-1]
        return statistics.median(taken)

    def close(self) -> None:
        for loaded in self.arrangements.values():
            for executor in loaded:
                executor.close()


@contextmanager
def engines(version: Path, settings: Settings, cpus: int) -> Iterator[Engines]:
    """`Engines`, freed at the end."""
    loaded = Engines(version, settings, cpus)
    try:
        yield loaded
    finally:
        loaded.close()


def _compute(executor: Executor, pixels: UInt8Array, seconds: float) -> list[float]:
    """Seconds of each batch; at least one."""
    taken: list[float] = []
    now = time.perf_counter()
    end = now + seconds
    while not taken or now < end:
        compute(executor, pixels, _ANSWER)
        taken.append(time.perf_counter() - now)
        now += taken[-1]
    return taken


def decode(
    pool: Pool, files: Sequence[bytes], preprocess: Preprocess, mode: DecodeMode, seconds: float, cpus: int
) -> Rate:
    """Decode on all processors, each in a process of its own: threads of one would wait for the interpreter."""
    jobs = [pool.submit(_decode, files, preprocess, mode, seconds) for _ in range(cpus)]
    rates = [job.result() for job in jobs]
    return Rate(
        sum(rate.images_per_second for rate in rates),
        statistics.median(rate.seconds for rate in rates),
        statistics.fmean(rate.cpu_seconds for rate in rates),
    )


def _decode(files: Sequence[bytes], preprocess: Preprocess, mode: DecodeMode, seconds: float) -> Rate:
    """In one process. Whole turns through the files, so that each counts alike."""
    taken: list[float] = []
    cpu, now = time.process_time(), time.perf_counter()
    end = now + seconds
    while not taken or now < end:
        for data in files:
            decoding.decode(data, preprocess, mode)
            taken.append(time.perf_counter() - now)
            now += taken[-1]
    return Rate(len(taken) / sum(taken), statistics.median(taken), (time.process_time() - cpu) / len(taken))
