"""Computes nothing and takes a fixed time per batch: to try a deployment, or the effect of overload, without a model.

The first class is the mean of some pixel values modulo the number of classes, so that outputs differ between images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from models.artifact.manifest import Precision
from models.imaging.preprocess import UInt8Array
from service.executors.base import ExecutorError, Float32Array, HostExecutor, Source

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {"float32": ("onnx", "float32")}
DEVICE = "simulated"


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

    def gather(self, images: Sequence[UInt8Array]) -> UInt8Array:
        """Some pixels of each image: a copy of all would take CPU time that a GPU does not take."""
        return np.stack([image[::8, ::8] for image in images])

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        time.sleep(self._seconds)
        n = len(gathered)
        first = gathered.reshape(n, -1).mean(1).astype(np.int64) % self._classes
        logits = np.zeros((n, self._classes), np.float32)
        logits[np.arange(n), first] = 10.0
        exponentials = np.exp(logits)
        values = {
            "logits": logits,
            "probabilities": exponentials / exponentials.sum(1, keepdims=True),
            "feature_map": np.zeros((n, 1, 1, 1), np.float32),
        }
        return {name: values.get(name, np.zeros((n, 1), np.float32)) for name in outputs}

    def close(self) -> None:
        """Do nothing: the executor holds no resources."""


EXECUTOR = SimulatedExecutor
