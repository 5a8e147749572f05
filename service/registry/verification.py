"""Verification of a version before it takes requests: its files, and the outputs of each of its instances."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.artifact import classifier_head, golden, manifest, parity
from models.artifact.classifier_head import Classifier
from models.artifact.manifest import Artifact, Manifest, Precision
from models.artifact.parity import Float32Array, ParityError
from models.imaging.preprocess import UInt8Array
from service.core.threads import call_at_lowest_priority
from service.executors import Runtime
from service.executors.base import Executor, Source, closed_on_error, compute
from service.registry.repository import LoadError


def check_inside(repository: Path, *paths: Path) -> None:
    """Check that symbolic links do not lead out of the repository.

    Raises:
        LoadError: a path leads out of the repository, or to itself.
    """
    for path in paths:
        try:
            inside = path.resolve().is_relative_to(repository.resolve())
        except (OSError, RuntimeError) as error:  # by version of Python
            raise LoadError(f"{path}: cannot be read: {error}") from error
        if not inside:
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


class Verified(NamedTuple):
    """Instances whose outputs are right."""

    executors: list[Executor]
    seconds_per_image: float
    """Time of an image in a large batch; 0 for an executor that computes nothing."""


def load_verified(runtime: Runtime, source: Source, instances: int = 1, gently: bool = False) -> Verified:
    """Load instances of a version on each device of a runtime, and verify each with the golden images.

    Args:
        runtime: the runtime.
        source: the version.
        instances: number of instances per device.
        gently: whether to verify with the lowest priority: that is two thirds of the CPU time of a load.

    Raises:
        ExecutorError: an instance cannot be loaded.
        LoadError: the outputs of an instance are wrong. No instance stays loaded.
    """
    images, logits = golden.read(source.version / manifest.GOLDEN_FILE)
    check = partial(check_golden, images=images, logits=logits, file=source.artifact.file, precision=source.precision)
    loaded = runtime.load(source, instances)
    with closed_on_error(loaded):
        seconds = [call_at_lowest_priority(check, executor) if gently else check(executor) for executor in loaded]
    return Verified(loaded, max(seconds))


def check_golden(
    executor: Executor, images: UInt8Array, logits: Float32Array, file: str, precision: Precision
) -> float:
    """Compute the golden images on an executor and compare the logits with those of the PyTorch model.

    The images are computed in every bucket on every stream; without buckets, in one batch and one by one.

    Args:
        executor: the executor.
        images: uint8 [n, H, W, C].
        logits: float32 [n, classes].
        file: name of the artifact, for messages.
        precision: precision of the arithmetic.

    Returns:
        Seconds per image in the size of batch that is fastest; 0 if the executor computes nothing.

    Raises:
        LoadError: the executor fails, or the difference of the logits exceeds the bound of the precision.
    """
    if not executor.computes:
        return 0.0
    fastest = math.inf
    for size in executor.buckets or (len(images), 1):
        # The images repeat until the last batch is full.
        order = np.arange(-(-len(images) // size) * size) % len(images)
        for _ in range(executor.concurrent_batches):  # executors use their streams in turn
            parts = []
            for indices in np.split(order, len(order) // size):
                started = time.monotonic()
                try:
                    parts.append(compute(executor, images[indices], frozenset({"logits"}))["logits"])
                except Exception as error:  # the exceptions of runtimes have no common base
                    raise LoadError(f"{file}: the runtime fails on {size} golden images: {error}") from error
                fastest = min(fastest, (time.monotonic() - started) / size)
            try:
                parity.check(np.concatenate(parts), logits[order], precision)
            except ParityError as error:
                raise LoadError(f"{file}: wrong outputs for the golden images in batches of {size}: {error}") from error
    return fastest
