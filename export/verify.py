"""Runs what was written, in the runtime it was written for, and compares it with the eager model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from export.graph import INPUT
from models.data import Dataset
from models.manifest import MAX_LOGIT_ERROR, Accuracy, Parity, Precision
from models.parity import Float32Array, compare
from models.preprocess import UInt8Array
from models.progress import progress_bar

BATCH = 64


class VerificationError(ValueError):
    """An artifact does not compute what its checkpoint computes."""


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def logits(self, images: UInt8Array) -> Float32Array:
        """uint8 [n, H, W, C] to float32 [n, classes], in batches of `BATCH`."""
        parts = [
            self._session.run(["logits"], {INPUT: images[first : first + BATCH]})[0]
            for first in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)


def check_parity(runner: OnnxRunner, images: UInt8Array, expected: Float32Array, precision: Precision) -> Parity:
    """Compare with the eager logits [n, classes].

    Raises:
        VerificationError: further apart than `MAX_LOGIT_ERROR` allows for the precision.
    """
    try:
        parity = compare(runner.logits(images), expected)
    except ValueError as error:
        raise VerificationError(str(error)) from error
    if parity.logit_error > MAX_LOGIT_ERROR[precision]:
        raise VerificationError(
            f"the logits differ from the eager model's by {parity.logit_error:.1e} of their spread, "
            f"more than the {MAX_LOGIT_ERROR[precision]:.0e} allowed for {precision}"
        )
    return parity


def measure_accuracy(runner: OnnxRunner, data: Dataset) -> Accuracy:
    """Top-1 and top-5 over all of `data`."""
    labels = data.labels
    top = min(5, len(data.classes))
    top1 = top5 = 0
    with progress_bar("measuring accuracy", total=len(labels)) as progress:
        for first in range(0, len(labels), BATCH):
            indices = np.arange(first, min(first + BATCH, len(labels)))
            best = np.argsort(-runner.logits(data.images(indices)), axis=1, kind="stable")[:, :top]
            hits = best == labels[indices, None]
            top1 += int(hits[:, 0].sum())
            top5 += int(hits.sum())
            progress.update(int(indices[-1]) + 1)
    return Accuracy(top1=top1 / len(labels), top5=top5 / len(labels), images=len(labels))
