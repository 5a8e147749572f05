"""What every executor is: the contract, what it is loaded from, and helpers for those that use one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.artifact.manifest import Artifact, Manifest, Precision
from models.imaging.preprocess import UInt8Array
from models.runtime.engine_cache import default_folder

Float32Array = NDArray[np.float32]


class ExecutorError(Exception):
    """An executor cannot be used; the message says what to do."""


class DeviceLost(Exception):
    """A device computes nothing more until the process is started again."""


class Executor(Protocol):
    """One runtime with one model loaded, on one device."""

    computes: bool
    """Whether the answers are the model's, to be checked against its golden images."""
    device: str
    """Where it computes, such as cpu or cuda:0."""
    lanes: int
    """Threads that may use it at the same time. Each has a lane to itself from `acquire` to the end of `run`."""
    buckets: Sequence[int]
    """Sizes that batches are filled up to, ascending; none larger can be computed. Empty: any size, as it is."""

    def prepare(self, max_batch: int) -> None:
        """Make ready, before the first request, what is made for batches of certain sizes; may be called again.

        Args:
            max_batch: most images that a batch will have.
        """
        ...

    def acquire(self, n: int) -> UInt8Array:
        """A buffer [n, H, W, C] to write images into, which the runtime can use as it is."""
        ...

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        """Compute the buffer that `acquire` gave to this thread.

        Args:
            images: uint8 [n, H, W, C].
            outputs: names out of logits, probabilities, embedding, feature_map.

        Returns:
            Arrays [n, ...] that the executor does not touch again, one for each name.

        Raises:
            DeviceLost: this and every later batch fails; any other exception is of this batch alone.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


class HostExecutor:
    """What executors that compute in the host's memory have in common."""

    computes = True
    device = "cpu"
    lanes = 1
    buckets: Sequence[int] = ()

    def __init__(self, source: Source) -> None:
        self._shape = source.manifest.preprocess.shape

    def prepare(self, max_batch: int) -> None:
        """Nothing: the runtime takes any size as it comes."""

    def acquire(self, n: int) -> UInt8Array:
        return np.empty((n, *self._shape), np.uint8)


class Wrapper:
    """An executor that hands on to another whatever it does not do itself."""

    def __init__(self, executor: Executor) -> None:
        self.computes = executor.computes
        self.device = executor.device
        self.lanes = executor.lanes
        self.buckets = executor.buckets
        self._executor = executor

    def prepare(self, max_batch: int) -> None:
        self._executor.prepare(max_batch)

    def acquire(self, n: int) -> UInt8Array:
        return self._executor.acquire(n)

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        return self._executor.run(images, outputs)

    def close(self) -> None:
        self._executor.close()


@dataclass(frozen=True)
class Source:
    """What an executor is to load, and how."""

    version: Path
    """Folder that the artifact is in."""
    manifest: Manifest
    artifact: Artifact
    precision: Precision
    """What to compute in; the artifact may hold more."""
    threads: int
    """Processors to use."""
    argument: str = ""
    """What stood behind the colon of the executor's name: for GPUs, the number of the device."""
    cache: Path = field(default_factory=default_folder)
    """Folder of the engines that fit this machine only."""
    alone: bool = False
    """Whether nothing else uses the processors meanwhile, so that threads may spin for work instead of sleeping."""

    @property
    def path(self) -> Path:
        return self.version / self.artifact.file


def compute(executor: Executor, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
    """One batch: a buffer belongs to one run, so each has to be asked for and filled.

    Args:
        executor: computes it.
        images: uint8 [n, H, W, C].
        outputs: names, as for `Executor.run`.
    """
    buffer = executor.acquire(len(images))
    buffer[:] = images
    return executor.run(buffer, outputs)


@contextmanager
def closed_on_error(executors: Sequence[Executor]) -> Iterator[None]:
    """Free what executors hold if what is done with them within fails."""
    try:
        yield
    except BaseException:
        close_all(executors)
        raise


def close_all(executors: Iterable[Executor]) -> None:
    """Free what executors hold."""
    for executor in executors:
        executor.close()


def fill_up(n: int, buckets: Sequence[int]) -> int:
    """The size that n images are computed as: the smallest bucket that holds them, which wastes least."""
    return next(bucket for bucket in buckets if bucket >= n) if buckets else n
