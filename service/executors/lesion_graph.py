"""The graph in which blocks can be deleted, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.artifact.manifest import INPUT, LESION_INPUT
from models.imaging.preprocess import UInt8Array
from service.executors.base import Float32Array
from service.executors.onnxruntime_cpu import open_session


class LesionGraph:
    """Computes with one thread: the one that calls.

    Args:
        path: the file.
        blocks: number of blocks.

    Raises:
        ExecutorError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path, blocks: int) -> None:
        self._session = open_session(path, threads=1)
        self._blocks = blocks

    def compute(self, images: UInt8Array, output: str, deleted: Sequence[int] = ()) -> Float32Array:
        """One output, float32 [n, classes], of images.

        Args:
            images: uint8 [n, H, W, C].
            output: logits or probabilities.
            deleted: positions of the blocks whose residual branches are left out.
        """
        gates = np.ones(self._blocks, np.float32)
        gates[list(deleted)] = 0.0
        values: Float32Array = self._session.run([output], {INPUT: images, LESION_INPUT: gates})[0]
        return values
