"""The highest throughput that a machine reaches with the engine and the decoder of the service alone.

Each is measured on all CPUs, with data from memory. Work that needs both, one after the other, reaches at most
1 / (1 / engine + 1 / decode) images per second.
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
    """Speed of the engine or the decoder alone."""

    images_per_second: float
    seconds: float
    """Median time of one batch, or to decode one image."""
    cpu_seconds: float
    """CPU time per image."""


def together(*rates: float) -> float:
    """Images per second of several steps that share all CPUs, from the rate of each step alone."""
    return 1 / sum(1 / rate for rate in rates)


class Engines:
    """The executors of a version, loaded as in the service but with all CPUs.

    On CPUs, one instance per CPU with one thread each is measured too: a small network gains little from more threads.
    """

    def __init__(self, version: Path, settings: Settings, cpus: int) -> None:
        described = manifest.read(version)
        runtime = executors.find(settings.executor)
        artifact = runtime.select_artifact(described, settings.precision)
        source = Source(version, described, artifact, settings.precision, cpus, cache=settings.cache)
        self._images, _ = golden.read(version / manifest.GOLDEN_FILE)
        self.arrangements = {"together": runtime.load(source)}
        (first, *_) = self.arrangements["together"]
        if first.computes and first.device == "cpu" and cpus > 1:
            self.arrangements["apart"] = runtime.load(replace(source, threads=1), instances=cpus)

    def batches(self, max_batch: int, wanted: Sequence[int]) -> list[int]:
        """Batch sizes to measure: 1, the service's largest batch, and the wanted sizes that the engine takes.

        A larger batch than the service's may be a little faster, and then sets the ceiling. An executor that computes
        nothing takes the same time for every batch, so larger ones say nothing about it.
        """
        (first, *_) = self.arrangements["together"]
        possible = [size for size in wanted if first.computes and (not first.buckets or size <= first.buckets[-1])]
        return sorted({1, max_batch, *possible})

    def measure(self, arrangement: str, batch: int, seconds: float) -> Rate:
        """Compute batches on all instances at the same time."""
        pixels = self._images[np.arange(batch) % len(self._images)]
        lanes = [executor for executor in self.arrangements[arrangement] for _ in range(executor.concurrent_batches)]
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
        """Median seconds to decode an image file and then compute it, on all CPUs.

        This is more than the sum of both steps alone: each step finds the caches filled with data of the other one.
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
    """`Engines`, closed at the end."""
    loaded = Engines(version, settings, cpus)
    try:
        yield loaded
    finally:
        loaded.close()


def _compute(executor: Executor, pixels: UInt8Array, seconds: float) -> list[float]:
    """Compute batches for a number of seconds, at least one; returns the seconds of each."""
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
    """Decode on all CPUs in one process each: threads of one process would wait for the interpreter lock."""
    jobs = [pool.submit(_decode, files, preprocess, mode, seconds) for _ in range(cpus)]
    rates = [job.result() for job in jobs]
    return Rate(
        sum(rate.images_per_second for rate in rates),
        statistics.median(rate.seconds for rate in rates),
        statistics.fmean(rate.cpu_seconds for rate in rates),
    )


def _decode(files: Sequence[bytes], preprocess: Preprocess, mode: DecodeMode, seconds: float) -> Rate:
    """Decode in one process. All files are decoded equally often."""
    taken: list[float] = []
    cpu, now = time.process_time(), time.perf_counter()
    end = now + seconds
    while not taken or now < end:
        for data in files:
            decoding.decode(data, preprocess, mode)
            taken.append(time.perf_counter() - now)
            now += taken[-1]
    return Rate(len(taken) / sum(taken), statistics.median(taken), (time.process_time() - cpu) / len(taken))
