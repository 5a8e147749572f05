"""Verification of a version before it takes requests: its files, and the outputs of each of its instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.artifact import classifier_head, golden, manifest, parity
from models.artifact.classifier_head import Classifier
from models.artifact.manifest import Artifact, Manifest, Precision
from models.artifact.parity import Float32Array, ParityError
from models.imaging.preprocess import UInt8Array
from service.executors import Runtime
from service.executors.base import Executor, Source, closed_on_error, compute
from service.registry.repository import LoadError


def check_inside(repository: Path, *paths: Path) -> None:
    """Check that symbolic links do not lead out of the repository.

    Raises:
        LoadError: a path leads out of the repository.
    """
    for path in paths:
        if not path.resolve().is_relative_to(repository.resolve()):
            raise LoadError(f"{path}: is a link that leads out of the repository")


def check_files(repository: Path, version: Path, described: Manifest, artifact: Artifact) -> None:
    """Check the files of a version that are read: their places, and the hashes of the artifact and the golden images.

    Raises:
        LoadError: a link leads out of the repository.
        ManifestError: a file is missing or altered.
    """
    names = (artifact.file, manifest.GOLDEN_FILE, manifest.CLASSIFIER_FILE)
    check_inside(repository, *(version / name for name in names))
    manifest.check_hash(version / artifact.file, artifact.sha256)
    manifest.check_hash(version / manifest.GOLDEN_FILE, described.golden_sha256)


def read_classifier(version: Path, described: Manifest) -> Classifier | None:
    """The weights of the last layer, or None if the version does not have them.

    Raises:
        ManifestError: the file is missing or altered.
    """
    if described.classifier_sha256 is None:
        return None
    manifest.check_hash(version / manifest.CLASSIFIER_FILE, described.classifier_sha256)
    return classifier_head.read(version / manifest.CLASSIFIER_FILE, len(described.labels))


def load_verified(runtime: Runtime, source: Source, instances: int = 1) -> list[Executor]:
    """Load instances of a version on each device of a runtime, and verify each with the golden images.

    Raises:
        ExecutorError: an instance cannot be loaded.
        LoadError: the outputs of an instance are wrong. No instance stays loaded.
    """
    images, logits = golden.read(source.version / manifest.GOLDEN_FILE)
    loaded = runtime.load(source, instances)
    with closed_on_error(loaded):
        for executor in loaded:
            check_golden(executor, images, logits, source.artifact.file, source.precision)
    return loaded


def check_golden(executor: Executor, images: UInt8Array, logits: Float32Array, file: str, precision: Precision) -> None:
    """Compute the golden images on an executor and compare the logits with those of the PyTorch model.

    The images are computed in every bucket on every stream; without buckets, in one batch and one by one.

    Args:
        executor: the executor.
        images: uint8 [n, H, W, C].
        logits: float32 [n, classes].
        file: name of the artifact, for messages.
        precision: precision of the arithmetic.

    Raises:
        LoadError: the executor fails, or the difference of the logits exceeds the bound of the precision.
    """
    if not executor.computes:
        return
    for size in executor.buckets or (len(images), 1):
        # The images repeat until the last batch is full.
        order = np.arange(-(-len(images) // size) * size) % len(images)
        for _ in range(executor.concurrent_batches):  # executors use their streams in turn
            parts = []
            for indices in np.split(order, len(order) // size):
                try:
                    parts.append(compute(executor, images[indices], frozenset({"logits"}))["logits"])
                except Exception as error:  # the exceptions of runtimes have no common base
                    raise LoadError(f"{file}: the runtime fails on {size} golden images: {error}") from error
            try:
                parity.check(np.concatenate(parts), logits[order], precision)
            except ParityError as error:
                raise LoadError(f"{file}: wrong outputs for the golden images in batches of {size}: {error}") from error
