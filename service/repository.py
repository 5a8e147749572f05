"""Loads models from a repository: find the version, check its files, warm it up, and only then let it serve."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import classifier, golden, manifest, parity
from models.classifier import Classifier
from models.manifest import MODEL_NAME, Artifact, Manifest, ManifestError
from models.parity import Float32Array, ParityError
from models.preprocess import UInt8Array
from service import executors
from service.batching import BatchQueue
from service.engine import LocalEngine
from service.executors import Executor, ExecutorError, choose_artifact
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger(__name__)

_BATCHES = (1, 2, 4, 8, 16, 32)
_WORTHWHILE = 0.97
"""A larger batch is not worth its latency once a smaller one has this share of the best throughput."""
_SLOW = 0.25
"""Seconds a batch; larger ones are not tried, or starting would take long."""


class LoadError(Exception):
    """A model cannot be served; the message says why."""


@dataclass(frozen=True)
class LoadedModel:
    """One version of a model, ready to serve."""

    manifest: Manifest
    artifact: Artifact
    executor: str
    engine: LocalEngine
    classifier: Classifier | None
    """What class activation maps are made with; None where the version or the executor cannot give any."""

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return str(self.manifest.version)


def find_models(repository: Path) -> dict[str, Path]:
    """The newest version folder of each model, by name.

    Raises:
        LoadError: no such folder.
    """
    if not repository.is_dir():
        raise LoadError(f"{repository}: there is no such folder; give the one that resnet-export wrote to")
    found = {}
    for folder in sorted(repository.iterdir()):
        if not re.match(MODEL_NAME, folder.name):
            continue
        versions = [path.parent for path in folder.glob(f"*/{manifest.FILE_NAME}") if path.parent.name.isdecimal()]
        if versions:
            found[folder.name] = max(versions, key=lambda version: int(version.name))
    return found


def load(version: Path, settings: Settings, metrics: Metrics) -> LoadedModel:
    """Load, check and warm up one version. Takes seconds; runs in a thread.

    Raises:
        LoadError: a file is missing or altered, the executor cannot be used, or its answers are wrong.
    """
    started = time.monotonic()
    try:
        described = manifest.read(version)
        artifact = choose_artifact(described)
        manifest.check_hash(version / artifact.file, artifact.sha256)
        manifest.check_hash(version / manifest.GOLDEN_FILE, described.golden_sha256)
        images, logits = golden.read(version / manifest.GOLDEN_FILE)
        weights = read_classifier(version, described)
        factory, argument = executors.find(settings.executor)
        executor = factory(version, described, artifact, settings.threads, argument)
    except (ManifestError, ExecutorError) as error:
        raise LoadError(str(error)) from error
    check_golden(executor, images, logits, artifact)
    max_batch = settings.max_batch or choose_max_batch(executor, images)
    queue = BatchQueue(settings.queue_size, max_batch, settings.max_delay_ms / 1000)
    engine = LocalEngine(executor, queue, metrics, described.name)
    metrics.watch_queue(described.name, lambda: len(queue))
    log.info(
        "%s version %s ready in %.1f s: %s, %s, batches of up to %d",
        described.name,
        described.version,
        time.monotonic() - started,
        settings.executor,
        artifact.precision,
        max_batch,
    )
    return LoadedModel(described, artifact, settings.executor, engine, weights if executor.computes else None)


def read_classifier(version: Path, described: Manifest) -> Classifier | None:
    """The last layer's weights, where the version has them.

    Raises:
        ManifestError: the file is missing or altered.
    """
    if described.classifier_sha256 is None:
        return None
    manifest.check_hash(version / manifest.CLASSIFIER_FILE, described.classifier_sha256)
    return classifier.read(version / manifest.CLASSIFIER_FILE, len(described.labels))


def check_golden(executor: Executor, images: UInt8Array, logits: Float32Array, artifact: Artifact) -> None:
    """Run the golden images on the executor that will serve, at once and alone.

    Raises:
        LoadError: the logits are further from the eager model's than the precision allows.
    """
    if not executor.computes:
        return
    for size in (len(images), 1):
        answers = []
        for first in range(0, len(images), size):
            buffer = executor.acquire(size)
            buffer[:] = images[first : first + size]
            try:
                answers.append(executor.run(buffer, frozenset({"logits"}))["logits"])
            except Exception as error:  # the runtime's exceptions have no common base
                raise LoadError(f"{artifact.file}: the runtime fails on the golden images: {error}") from error
        try:
            parity.check(np.concatenate(answers), logits, artifact.precision)
        except ParityError as error:
            raise LoadError(f"{artifact.file}: wrong answers for the golden images: {error}") from error


def choose_max_batch(executor: Executor, images: UInt8Array) -> int:
    """The smallest batch within 3 % of the best throughput measured."""
    throughput: dict[int, float] = {}
    for size in _BATCHES:
        buffer = executor.acquire(size)
        buffer[:] = images[np.arange(size) % len(images)]
        seconds = []
        for _ in range(4):  # the first run of a shape plans its memory; the minimum leaves it out
            started = time.perf_counter()
            executor.run(buffer, frozenset({"logits", "probabilities"}))
            seconds.append(time.perf_counter() - started)
            if len(seconds) > 1 and seconds[-1] > _SLOW:
                break
        throughput[size] = size / min(seconds)
        if min(seconds) > _SLOW:
            break
    best = max(throughput.values())
    return min(size for size, rate in throughput.items() if rate >= _WORTHWHILE * best)
