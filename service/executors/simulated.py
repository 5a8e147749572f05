"""Computes nothing and takes a fixed time per batch: to try a deployment, or the effect of overload, without a model.

The first class is the mean of some pixel values modulo the number of classes, so that outputs differ between images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from models.artifact.manifest import Precision
from models.imaging.preprocess import UInt8Array
from service.executors.base import ExecutorError, Float32Array, HostExecutor, Source

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {"float32": ("onnx", "float32")}
DEVICES: Mapping[str, str] = {"simulated": "0"}


class SimulatedExecutor(HostExecutor):
    """Takes `argument` milliseconds per batch of any size; 10 by default.

    Raises:
        ExecutorError: the argument is not a number.
    """

    computes = False

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        try:
            self._seconds = float(source.argument or 10) / 1000
        except ValueError:
            raise ExecutorError(f"simulated:MS takes milliseconds per batch, not {source.argument!r}") from None
        self._classes = source.manifest.architecture.num_classes
        self._buffer = np.empty((0, *self._shape), np.uint8)

    def acquire(self, n: int) -> UInt8Array:
        """A part of the same buffer each time, as of the executors for GPUs."""
        if n > len(self._buffer):
            self._buffer = np.empty((n, *self._shape), np.uint8)
        return self._buffer[:n]

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        time.sleep(self._seconds)
        # Not of all pixels: that would take more time than a real executor leaves to this process.
        first = images[:, ::8, ::8].reshape(len(images), -1).mean(1).astype(np.int64) % self._classes
        logits = np.zeros((len(images), self._classes), np.float32)
        logits[np.arange(len(images)), first] = 10.0
        exponentials = np.exp(logits)
        values = {
            "logits": logits,
            "probabilities": exponentials / exponentials.sum(1, keepdims=True),
            "embedding": np.zeros((len(images), 1), np.float32),
            "feature_map": np.zeros((len(images), 1, 1, 1), np.float32),
        }
        return {name: values[name] for name in outputs}

    def close(self) -> None:
        """Do nothing: the executor holds no resources."""


EXECUTOR = SimulatedExecutor
