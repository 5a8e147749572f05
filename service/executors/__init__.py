"""Executors compute batches: one file a runtime, imported only when it is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import Artifact, Manifest, Precision
from models.preprocess import UInt8Array

Float32Array = NDArray[np.float32]

_MODULES = {
    "onnxruntime-cpu": "onnxruntime_cpu",
    "openvino": "openvino",
    "simulated": "simulated",
}


class ExecutorError(Exception):
    """An executor cannot be used; the message says what to do."""


class Executor(Protocol):
    """One runtime with one model loaded. Used by one thread at a time."""

    computes: bool
    """Whether the answers are the model's, to be checked against its golden images."""

    def acquire(self, n: int) -> UInt8Array:
        """A buffer [n, H, W, C] to write images into, which the runtime can use as it is."""
        ...

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        """Compute a buffer that `acquire` gave.

        Args:
            images: uint8 [n, H, W, C].
            outputs: names out of logits, probabilities, embedding, feature_map.

        Returns:
            Arrays [n, ...] that the executor does not touch again, one for each name.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


class ExecutorFactory(Protocol):
    """What an executor's module calls `Executor`."""

    def __call__(
        self, version: Path, manifest: Manifest, artifact: Artifact, precision: Precision, threads: int, argument: str
    ) -> Executor:
        """Load an artifact of a version.

        Args:
            version: folder that the artifact is in.
            manifest: of that version.
            artifact: what `Runtime.choose` gave for the precision.
            precision: what to compute in.
            threads: processors to use.
            argument: what stood behind the colon of the executor's name.

        Raises:
            ExecutorError: it cannot be loaded.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """An executor that can be had here."""

    name: str
    argument: str
    factory: ExecutorFactory
    artifacts: Mapping[Precision, tuple[str, Precision]]
    """The artifact (format, precision) that it computes each precision from. One format serves several runtimes, and
    some compute in less than what the file holds."""

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


def find(name: str) -> Runtime:
    """The executor of a name `NAME[:ARGUMENT]`.

    Raises:
        ExecutorError: no such executor, or its runtime is not installed, or is and cannot be loaded.
    """
    name, _, argument = name.partition(":")
    if name not in _MODULES:
        raise ExecutorError(f"no executor is named {name!r}; there are: {', '.join(_MODULES)}")
    try:
        module = importlib.import_module(f"service.executors.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("service"):
            raise
        raise ExecutorError(f"executor {name!r} needs the package {error.name!r}: install it") from error
    except ImportError as error:
        raise ExecutorError(f"the runtime of executor {name!r} is installed but cannot be loaded: {error}") from error
    return Runtime(name, argument, module.Executor, module.ARTIFACTS)
