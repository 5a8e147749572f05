"""Executors compute batches: one file a runtime, imported only when it is chosen."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import Artifact, Manifest
from models.preprocess import UInt8Array

Float32Array = NDArray[np.float32]

_MODULES = {
    "onnxruntime-cpu": "onnxruntime_cpu",
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

    def __call__(self, version: Path, manifest: Manifest, artifact: Artifact, threads: int, argument: str) -> Executor:
        """Load an artifact of a version. `argument` is what stood behind the colon of the executor's name."""
        ...


def choose_artifact(manifest: Manifest) -> Artifact:
    """The artifact that an ONNX executor serves: the float32 one."""
    for artifact in manifest.artifacts:
        if artifact.format == "onnx" and artifact.precision == "float32":
            return artifact
    raise ExecutorError(f"{manifest.name} version {manifest.version} has no float32 ONNX artifact: export it again")


def find(name: str) -> tuple[ExecutorFactory, str]:
    """The executor of a name `NAME[:ARGUMENT]`, and its argument.

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
    return module.Executor, argument
