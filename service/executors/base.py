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

_SMALL_BYTES = 64 * 1024
"""Images up to this size are copied without numpy, which releases the interpreter lock for every copy of 500 values or
more, and has to wait for it again: longer than the copy takes."""


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
    """Threads that may use the executor at the same time, each from `gather` to the end of `run`."""
    buckets: Sequence[int]
    """Sizes that batches are padded to, ascending; larger batches are not possible. Empty: any size, without
    padding."""

    def prepare(self, max_batch: int) -> None:
        """Prepare for batches of certain sizes before the first request; may be called again.

        Args:
            max_batch: largest batch, in images.
        """
        ...

    def gather(self, images: Sequence[UInt8Array]) -> UInt8Array:
        """Copy the images of the next batch of this thread to where the runtime reads them.

        Args:
            images: uint8 [H, W, C] each, contiguous. They may change after `run`, not before its end.

        Returns:
            The argument of `run`, [n, ...]; the meaning of its values belongs to the executor.

        Raises:
            DeviceLost: as `run`.
        """
        ...

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        """Compute the batch that this thread gathered.

        Args:
            gathered: the array that `gather` returned.
            outputs: names out of those in the manifest of the version.

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

    def gather(self, images: Sequence[UInt8Array]) -> UInt8Array:
        buffer = self._buffer(len(images))
        copy_into(buffer, images)
        return buffer

    def _buffer(self, n: int) -> UInt8Array:
        """Memory for a batch, uint8 [n, H, W, C]."""
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
    """Compute one batch.

    Args:
        executor: the executor.
        images: uint8 [n, H, W, C].
        outputs: names, as for `Executor.run`.

    Returns:
        float32 [n, ...] per name.
    """
    return executor.run(executor.gather(list(images)), outputs)


def copy_into(buffer: UInt8Array, images: Sequence[UInt8Array]) -> None:
    """Copy images, uint8 [H, W, C] each, into a contiguous buffer, uint8 [n, H, W, C]."""
    size = buffer[0].nbytes
    if size > _SMALL_BYTES:
        for row, image in enumerate(images):
            buffer[row] = image
        return
    flat = memoryview(buffer.reshape(-1).data)
    for row, image in enumerate(images):
        flat[row * size : (row + 1) * size] = image.tobytes()


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
