"""Runs artifacts in ONNX Runtime and compares them with the eager model. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.temperature import calibration_error
from models.artifact import classifier_head, golden, manifest, parity
from models.artifact.manifest import INPUT, LESION_INPUT, Accuracy, ManifestError, Parity, Precision
from models.artifact.parity import Float32Array, ParityError
from models.data import Dataset
from models.imaging.preprocess import UInt8Array
from models.progress import progress_bar
from models.runtime.onnxruntime import ort

BATCH = 64


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU.

    Args:
        path: the file.
        gates: for the graph in which blocks can be deleted, a factor for the residual branch of each block.

    Raises:
        ParityError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path, gates: Sequence[float] | None = None) -> None:
        self.gates = gates
        self._name = path.name
        try:
            self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions have no common base
            raise ParityError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error

    def logits(self, images: UInt8Array) -> Float32Array:
        """Logits, float32 [n, classes], of images, uint8 [n, H, W, C].

        Raises:
            ParityError: the graph has another input or output.
        """
        return self._run("logits", images)

    def probabilities(self, images: UInt8Array) -> Float32Array:
        """Probabilities, float32 [n, classes], of images, uint8 [n, H, W, C]. Raises as `logits`."""
        return self._run("probabilities", images)

    def _run(self, output: str, images: UInt8Array) -> Float32Array:
        gates = {} if self.gates is None else {LESION_INPUT: np.asarray(self.gates, np.float32)}
        batches = (images[first : first + BATCH] for first in range(0, len(images), BATCH))
        try:
            parts = [self._session.run([output], {INPUT: batch, **gates})[0] for batch in batches]
            return np.concatenate(parts).astype(np.float32, copy=False)
        except Exception as error:  # the runtime's exceptions have no common base
            raise ParityError(f"{self._name}: ONNX Runtime cannot compute its {output}: {error}") from error


def check_parity(runner: OnnxRunner, images: UInt8Array, expected: Float32Array, precision: Precision) -> Parity:
    """Compare the logits of an artifact with expected ones, float32 [n, classes].

    Raises:
        ParityError: the error is larger than the precision allows.
    """
    return parity.check(runner.logits(images), expected, precision)


def verify_version(version: Path) -> dict[str, Parity]:
    """Check a version on disk: every file against its hash, every artifact on the golden images.

    Returns:
        The agreement of each artifact with the eager model, by file name.

    Raises:
        ManifestError: the manifest or a file is missing or altered.
        ParityError: an artifact computes other logits than the checkpoint.
    """
    described = manifest.read(version)
    manifest.check_hash(version / manifest.GOLDEN_FILE, described.golden_sha256)
    for artifact in described.files:
        manifest.check_hash(version / artifact.file, artifact.sha256)
    if described.classifier_sha256 is not None:
        manifest.check_hash(version / manifest.CLASSIFIER_FILE, described.classifier_sha256)
        classifier_head.read(version / manifest.CLASSIFIER_FILE, len(described.labels))
    images, logits = golden.read(version / manifest.GOLDEN_FILE)
    if images.shape[1:] != described.preprocess.shape or logits.shape != (len(images), len(described.labels)):
        raise ManifestError(
            f"{version / manifest.GOLDEN_FILE}: has images {list(images.shape)} and logits {list(logits.shape)}, "
            f"which are not this model's: export the version again"
        )
    runners = {artifact.file: OnnxRunner(version / artifact.file) for artifact in described.artifacts}
    if described.lesion is not None:
        # With all blocks, it is the same network.
        file, gates = described.lesion.artifact.file, [1.0] * len(described.lesion.blocks)
        runners[file] = OnnxRunner(version / file, gates)
    return {
        artifact.file: check_parity(runners[artifact.file], images, logits, artifact.precision)
        for artifact in described.files
    }


def measure_accuracy(runner: OnnxRunner, data: Dataset) -> Accuracy:
    """Top-1, top-5 and calibration error over all images."""
    labels = data.labels
    parts = []
    with progress_bar("measuring accuracy", total=len(labels)) as progress:
        for first in range(0, len(labels), BATCH):
            indices = np.arange(first, min(first + BATCH, len(labels)))
            parts.append(runner.probabilities(data.images(indices)))
            progress.update(int(indices[-1]) + 1)
    probabilities = np.concatenate(parts)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    hits = best == labels[:, None]
    return Accuracy(
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(1).mean()),
        images=len(labels),
        calibration_error=calibration_error(probabilities, labels),
    )
