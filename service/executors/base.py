"""The contract of executors, the description of what they load, and helpers for their users."""

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
    """A device fails until the process is restarted."""


class Executor(Protocol):
    """One runtime with one model loaded on one device: an instance of the model."""

    computes: bool
    """Whether the outputs are those of the model, so that golden images can verify them."""
    device: str
    """Name of the device, such as cpu or cuda:0."""
    concurrent_batches: int
    """Threads that may use the executor at the same time, each from `acquire` to the end of `run`."""
    buckets: Sequence[int]
    """Sizes that batches are padded to, ascending; larger batches are not possible. Empty: any size, without
    padding."""

    def prepare(self, max_batch: int) -> None:
        """Prepare for batches of certain sizes before the first request; may be called again.

        Args:
            max_batch: largest batch, in images.
        """
        ...

    def acquire(self, n: int) -> UInt8Array:
        """A buffer [n, H, W, C] to write images into, which the runtime can use without a conversion."""
        ...

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        """Compute the buffer that `acquire` returned to this thread.

        Args:
            images: uint8 [n, H, W, C].
            outputs: names out of logits, probabilities, embedding, feature_map.

        Returns:
            An array [n, ...] per name, which the executor does not write to again.

        Raises:
            DeviceLost: this and every later batch fails. Any other exception affects this batch only.
        """
        ...

    def close(self) -> None:
        """Free the resources of the runtime."""
        ...


class HostExecutor:
    """Base of the executors that compute in host memory."""

    computes = True
    device = "cpu"
    concurrent_batches = 1
    buckets: Sequence[int] = ()

    def __init__(self, source: Source) -> None:
        self._shape = source.manifest.preprocess.shape

    def prepare(self, max_batch: int) -> None:
        """Do nothing: the runtime takes batches of any size."""

    def acquire(self, n: int) -> UInt8Array:
        return np.empty((n, *self._shape), np.uint8)


@dataclass(frozen=True)
class Source:
    """The version that an executor loads, and how."""

    version: Path
    """Folder of the version."""
    manifest: Manifest
    artifact: Artifact
    precision: Precision
    """Precision of the arithmetic; the artifact may have more."""
    threads: int
    """Threads that compute a batch, on a CPU."""
    argument: str = ""
    """The part after the colon of the executor's name: for GPUs, the number of the device."""
    cache: Path = field(default_factory=default_folder)
    """Folder of the engine cache."""
    spin: bool = False
    """Whether threads may spin while they wait for work within a run: only if no other thread needs the CPUs then."""

    @property
    def path(self) -> Path:
        return self.version / self.artifact.file


def compute(executor: Executor, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
    """Compute one batch, in a buffer of the executor.

    Args:
        executor: the executor.
        images: uint8 [n, H, W, C].
        outputs: names, as for `Executor.run`.

    Returns:
        float32 [n, ...] per name.
    """
    buffer = executor.acquire(len(images))
    buffer[:] = images
    return executor.run(buffer, outputs)


@contextmanager
def closed_on_error(executors: Sequence[Executor]) -> Iterator[None]:
    """Close executors if the body of the context fails."""
    try:
        yield
    except BaseException:
        close_all(executors)
        raise


def close_all(executors: Iterable[Executor]) -> None:
    """Close executors."""
    for executor in executors:
        executor.close()


def padded_size(n: int, buckets: Sequence[int]) -> int:
    """The size that n images are computed as: the smallest bucket that holds them, or n without buckets."""
    return next(bucket for bucket in buckets if bucket >= n) if buckets else n
