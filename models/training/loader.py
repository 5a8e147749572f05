"""Reads batches before they are needed: in a thread of this process, or in processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from models.data import DataError, read_ahead
from models.data.classes import underlying
from models.data.dataset import use_threads
from models.data.files import EncodedDataset
from models.training.augmentation.pipeline import Pipeline, TrainingBatch
from models.training.input.sampling import BatchPlan

_AHEAD = 2
"""Batches that each process reads before they are needed."""
_SHARED_MEMORY = Path("/dev/shm")


def default_workers(pipeline: Pipeline, device: torch.device) -> int:
    """Number of processes that read: one per CPU for a GPU, one per four CPUs beside a network on CPUs.

    None for images in memory that are only shifted, mirrored and erased, and none for a single CPU.
    """
    if not isinstance(underlying(pipeline.data), EncodedDataset) and not pipeline.by_image:
        return 0
    cpus = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(16, cpus) if device.type == "cuda" else min(4, (cpus + 2) // 4)


class BatchLoader:
    """The batches of an epoch after the other, in order.

    Args:
        pipeline: reads and augments.
        workers: number of processes; 0 reads in a thread, and decodes on all CPUs.
        pinned: put batches into memory that a GPU copies from without waiting.
    """

    def __init__(self, pipeline: Pipeline, workers: int, pinned: bool) -> None:
        self.waited = 0.0
        """Seconds that the training waited for batches."""
        self._pipeline, self._pinned = pipeline, pinned
        self._plans: list[BatchPlan] = []
        self._processes = self._start(workers) if workers else None

    def batches(self, plans: list[BatchPlan]) -> Iterator[TrainingBatch]:
        """The batches of the plans.

        Raises:
            DataError: an image cannot be read, or a process that reads has ended.
        """
        self._plans[:] = plans
        batches = self._from_thread(plans) if self._processes is None else self._from_processes()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        """End the processes that read."""
        iterator = getattr(self._processes, "_iterator", None)
        if iterator is not None:
            # PyTorch has no public way. At its exit it sends SIGTERM, which they ignore, and waits for them.
            iterator._shutdown_workers()

    def _from_thread(self, plans: list[BatchPlan]) -> Iterator[TrainingBatch]:
        def read(plan: BatchPlan) -> TrainingBatch:
            batch = self._pipeline.read(plan)
            return batch.pin_memory() if self._pinned else batch

        with ThreadPoolExecutor(1) as reader:
            yield from read_ahead(read, plans, reader)

    def _from_processes(self) -> Iterator[TrainingBatch]:
        assert self._processes is not None
        try:
            # Python warns of a fork beside threads; those of this process hold no lock that reading takes.
            with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
                batches = iter(self._processes)
            for batch in batches:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        except RuntimeError as error:
            raise DataError(f"a process that reads images has ended: give fewer --data-workers ({error})") from error

    def _start(self, workers: int) -> DataLoader[Any]:
        """The processes begin with the first epoch, end with this process, and keep the order of the plans.

        Raises:
            DataError: the memory that processes share is too small.
        """
        recipe, (height, width) = self._pipeline.recipe, self._pipeline.preprocess.size
        needed = (workers * _AHEAD + 2) * recipe.batch_size * height * width * self._pipeline.preprocess.channels
        if _SHARED_MEMORY.is_dir() and needed > (free := shutil.disk_usage(_SHARED_MEMORY).free):
            raise DataError(
                f"--data-workers {workers} need {(needed >> 20) + 1:,} MB of {_SHARED_MEMORY}, which has "
                f"{free >> 20:,} MB free: give fewer, or 0; a container gets more with --shm-size"
            )
        return DataLoader(
            _Reader(self._pipeline),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._plans,
            num_workers=workers,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            pin_memory=self._pinned,
            multiprocessing_context="fork",
            worker_init_fn=_begin,
        )


class _Reader:
    """The pipeline as the processes call it. An error is a result: PyTorch would add the trace to its message."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __getitem__(self, plan: BatchPlan) -> TrainingBatch | DataError:
        try:
            return self._pipeline.read(plan)
        except DataError as error:
            return error


def _begin(_: int) -> None:
    """Leave signals to the training process, which finishes its step first, and use one CPU."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    use_threads(1)
