"""Runs what was written, in the runtime it was written for, and compares it with the eager model. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from models import classifier, golden, manifest, parity
from models.data import Dataset
from models.manifest import INPUT, Accuracy, ManifestError, Parity, Precision
from models.parity import Float32Array, ParityError
from models.preprocess import UInt8Array
from models.progress import progress_bar

BATCH = 64


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU.

    Raises:
        ParityError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions have no common base
            raise ParityError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error

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
        ParityError: further apart than the precision allows.
    """
    return parity.check(runner.logits(images), expected, precision)


def verify_version(version: Path) -> dict[str, Parity]:
    """Check a version as it lies on disk: every file against its hash, every artifact on the golden images.

    Returns:
        The agreement with the eager model of each artifact that can be run here, by file name.

    Raises:
        ManifestError: the manifest or a file is missing or altered.
        ParityError: an artifact does not compute what the checkpoint computed.
    """
    described = manifest.read(version)
    manifest.check_hash(version / manifest.GOLDEN_FILE, described.golden_sha256)
    for artifact in described.artifacts:
        manifest.check_hash(version / artifact.file, artifact.sha256)
    if described.classifier_sha256 is not None:
        manifest.check_hash(version / manifest.CLASSIFIER_FILE, described.classifier_sha256)
        classifier.read(version / manifest.CLASSIFIER_FILE, len(described.labels))
    images, logits = golden.read(version / manifest.GOLDEN_FILE)
    if images.shape[1:] != described.preprocess.shape or logits.shape != (len(images), len(described.labels)):
        raise ManifestError(
            f"{version / manifest.GOLDEN_FILE}: has images {list(images.shape)} and logits {list(logits.shape)}, "
            f"which are not this model's: export the version again"
        )
    return {
        artifact.file: check_parity(OnnxRunner(version / artifact.file), images, logits, artifact.precision)
        for artifact in described.artifacts
        if artifact.format == "onnx"
    }


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
