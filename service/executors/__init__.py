"""Executors compute batches: one file a runtime, found by its name and imported only when it is chosen.

A file `some_runtime.py` here is the executor `some-runtime`. It holds `Executor`, which makes one of a `Source`;
`ARTIFACTS`, from which artifact (format, precision) of a version it computes each precision; and `DEVICES`, where it
computes (cpu, gpu), with the argument that chooses it. Nothing else lists it: tests and benchmarks find it here too.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.engine_cache import default_folder
from models.manifest import Artifact, Manifest, Precision
from models.preprocess import UInt8Array

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


@dataclass(frozen=True)
class Runtime:
    """An executor that can be had here."""

    name: str
    argument: str
    """One for each executor that is to be made, with commas between them."""
    make: Callable[[Source], Executor]
    """Loads one. Raises ExecutorError where it cannot be."""
    artifacts: Mapping[Precision, tuple[str, Precision]]
    """The artifact (format, precision) that it computes each precision from. One format serves several runtimes, and
    some compute in less than what the file holds."""
    devices: Mapping[str, str]
    """Where it computes, cpu or gpu, and the argument that chooses it."""

    def choose(self, manifest: Manifest, precision: Precision) -> Artifact:
        """The artifact of a version that is computed in this precision.

        Raises:
            ExecutorError: the runtime has no such precision, or the version no such artifact.
        """
        if precision not in self.artifacts:
            raise ExecutorError(f"{self.name} does not compute in {precision}; it does in: {', '.join(self.artifacts)}")
        for artifact in manifest.artifacts:
            if (artifact.format, artifact.precision) == self.artifacts[precision]:
                return artifact
        there = ", ".join(artifact.file for artifact in manifest.artifacts)
        how = "again" if precision in ("float32", "bfloat16") else f"again with --{precision}"
        raise ExecutorError(
            f"{manifest.name} version {manifest.version} has nothing that {self.name} computes {precision} from, only "
            f"{there}: export it {how}"
        )

    def load(self, source: Source, copies: int = 1) -> list[Executor]:
        """So many executors of a source for each of the runtime's arguments.

        Raises:
            ExecutorError: one of them cannot be loaded.
        """
        loaded: list[Executor] = []
        with closed_on_error(loaded):
            for argument in self.argument.split(",") * copies:
                loaded.append(self.make(replace(source, argument=argument)))
        return loaded


def names() -> list[str]:
    """Of all executors, installed or not."""
    return sorted(_name(module.name) for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Runtime:
    """The executor of a name `NAME[:ARGUMENT[,ARGUMENT...]]`.

    Raises:
        ExecutorError: no such executor, or its runtime is not installed, or is and cannot be loaded.
    """
    name, _, argument = name.partition(":")
    if name not in names():
        raise ExecutorError(f"no executor is named {name!r}; there are: {', '.join(names())}")
    try:
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("service"):
            raise
        raise ExecutorError(f"executor {name!r} needs the package {error.name!r}: install it") from error
    except ImportError as error:
        raise ExecutorError(f"the runtime of executor {name!r} is installed but cannot be loaded: {error}") from error
    return Runtime(name, argument, module.Executor, module.ARTIFACTS, module.DEVICES)


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


def _name(module: str) -> str:
    return module.replace("_", "-")
