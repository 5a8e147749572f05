"""Reads a model repository: which versions it holds, and one of them loaded, checked and warmed up."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.artifact import classifier_head, golden, manifest, parity
from models.artifact.classifier_head import Classifier
from models.artifact.manifest import MODEL_NAME, Artifact, Manifest, ManifestError, Precision
from models.artifact.parity import Float32Array, ParityError
from models.imaging.preprocess import UInt8Array
from service import executors
from service.core.naming import ENCODED
from service.core.settings import Settings, available_cpus
from service.engine import lone
from service.engine.arrangement import Load, arrange, own_processors
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.engine.isolated import isolate
from service.engine.sizing import choose_max_batch
from service.executors import Runtime
from service.executors.base import Executor, ExecutorError, Source, closed_on_error, compute
from service.messages.model import ServedModel
from service.registry import execution_config
from service.registry.execution_config import ExecutionConfig
from service.telemetry.metrics import Metrics
from service.telemetry.statistics import Statistics

log = logging.getLogger(__name__)

_KEYS = itertools.count(1)

_VERSION = r"[1-9][0-9]{0,17}"


class LoadError(Exception):
    """A model cannot be served; the message says why."""


Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, bytes and time of change of each file: another stamp, another content."""


@dataclass(frozen=True)
class VersionDir:
    """A version as it lies in the repository."""

    folder: Path
    stamp: Fingerprint


@dataclass(frozen=True)
class LoadedModel:
    """One version of a model, ready to serve."""

    manifest: Manifest
    artifact: Artifact
    choice: ExecutionConfig
    """What computes it; the artifact may hold more precision than it is computed in."""
    threads: int
    """Of each executor."""
    lone_threads: int
    """Of the executor for an image that comes alone; 0 where there is none."""
    engine: Engine
    served: ServedModel
    """The version as the answering side knows it."""

    @property
    def statistics(self) -> Statistics:
        return self.engine.statistics

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def executor(self) -> str:
        return self.choice.executor

    @property
    def precision(self) -> Precision:
        return self.choice.precision

    @property
    def version(self) -> str:
        return str(self.manifest.version)

    def computes(self, other: Manifest) -> bool:
        """Whether another version is the same network with other weights."""
        mine = self.manifest
        return (mine.architecture, mine.preprocess.shape) == (other.architecture, other.preprocess.shape)


def find_versions(repository: Path) -> dict[str, dict[int, VersionDir]]:
    """The versions that a repository holds, by model and number.

    Raises:
        LoadError: no such folder, or it cannot be read.
    """
    if not repository.is_dir():
        raise LoadError(f"{repository}: there is no such folder; give the one that resnet-export wrote to")
    found: dict[str, dict[int, VersionDir]] = {}
    try:
        for model in sorted(repository.iterdir()):
            if not re.fullmatch(MODEL_NAME, model.name) or not model.is_dir():
                continue
            for folder in sorted(model.iterdir()):
                if re.fullmatch(_VERSION, folder.name) and (folder / manifest.FILE_NAME).is_file():
                    found.setdefault(model.name, {})[int(folder.name)] = VersionDir(folder, _stamp(folder))
    except OSError as error:
        raise LoadError(f"{repository}: cannot be read: {error}") from error
    return found


def _stamp(folder: Path) -> Fingerprint:
    entries = []
    for path in sorted(folder.iterdir()):
        try:
            status = path.stat()
        except FileNotFoundError:  # being removed
            continue
        entries.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(entries)


def choose(version: Path, settings: Settings) -> ExecutionConfig:
    """What to compute a version with.

    Raises:
        LoadError: its manifest cannot be read.
    """
    try:
        if version.parent.name.endswith(ENCODED):
            raise LoadError(f"names that end in {ENCODED} are those of other models' second face under /v2: rename it")
        _check_inside(settings.repository, version / manifest.FILE_NAME)
        return execution_config.choose(settings, manifest.read(version))
    except ManifestError as error:
        raise LoadError(str(error)) from error


def load(
    version: Path, chosen: ExecutionConfig, settings: Settings, metrics: Metrics, serving: LoadedModel | None = None
) -> LoadedModel:
    """Load, check and warm up one version. Takes seconds; runs in a thread.

    Args:
        version: its folder.
        chosen: what to compute it with.
        settings: where the repository is, and limits.
        metrics: told of its batches.
        serving: the version that it is to take over from. Where both compute the same network, what was measured for
            it is kept: a measurement beside a service under load says little.

    Raises:
        LoadError: a file is missing or altered, the executor cannot be used, or its answers are wrong.
    """

    def inside() -> int:
        return engine.in_flight

    started = time.monotonic()
    try:
        described = manifest.read(version)
        runtime = executors.find(chosen.executor)
        if settings.isolate:
            runtime = isolate(runtime)
        artifact = runtime.choose(described, chosen.precision)
        read = (artifact.file, manifest.GOLDEN_FILE, manifest.CLASSIFIER_FILE)
        _check_inside(settings.repository, *(version / name for name in read))
        manifest.check_hash(version / artifact.file, artifact.sha256)
        manifest.check_hash(version / manifest.GOLDEN_FILE, described.golden_sha256)
        images, logits = golden.read(version / manifest.GOLDEN_FILE)
        weights = read_classifier(version, described)
        cpus = available_cpus()
        source = Source(version, described, artifact, chosen.precision, cpus, cache=settings.cache)
        like = serving if serving is not None and serving.computes(described) else None
        threads = chosen.threads or (like.threads if like else None)
        load_some = checked(runtime, source, images, logits)
        loaded, threads = arrange(load_some, images, threads, chosen.copies, cpus)
        with closed_on_error(loaded):
            max_batch = (
                chosen.max_batch or (like.engine.max_batch if like else 0) or choose_max_batch(loaded[0], images)
            )
            _check_fits(max_batch, loaded[0].buckets)
            for executor in loaded:
                executor.prepare(max_batch)
            lone_threads = settings.single_image_threads
            if lone_threads is None and (like or settings.isolate):
                lone_threads = like.lone_threads if like else 0  # a process more takes more memory
            loaded, lone_threads = lone.lend(load_some, lone_threads, loaded, images, cpus, inside)
    except (ManifestError, ExecutorError) as error:
        raise LoadError(str(error)) from error
    apart = len(loaded) > 1 and loaded[0].device == "cpu"
    queue = BatchQueue(settings.max_in_flight_images, max_batch, settings.max_delay_ms / 1000, split=apart)
    processors = () if settings.isolate else own_processors(loaded, threads)  # isolated, others compute
    engine = Engine(loaded, queue, metrics, described.name, processors)
    log.info(
        "%s version %s ready in %.1f s: %s on %s, %s, threads %d%s, batches of up to %d",
        described.name,
        described.version,
        time.monotonic() - started,
        chosen.executor,
        ", ".join(executor.device for executor in loaded),
        chosen.precision,
        threads,
        f", {lone_threads} for an image alone" if lone_threads else "",
        max_batch,
    )
    return LoadedModel(
        described,
        artifact,
        chosen,
        threads,
        lone_threads,
        engine,
        ServedModel(
            key=next(_KEYS),
            name=described.name,
            version=str(described.version),
            labels=described.labels,
            architecture=described.architecture.name,
            preprocess=described.preprocess,
            outputs=described.outputs,
            classifier=weights if loaded[0].computes else None,
            executor=chosen.executor,
            precision=chosen.precision,
            artifact_format=artifact.format,
            accuracy=artifact.accuracy,
            threads=threads,
            lone_threads=lone_threads,
            concurrent_batches=engine.lanes,
            max_batch=max_batch,
            provenance=chosen.chosen,
        ),
    )


def read_classifier(version: Path, described: Manifest) -> Classifier | None:
    """The last layer's weights, where the version has them.

    Raises:
        ManifestError: the file is missing or altered.
    """
    if described.classifier_sha256 is None:
        return None
    manifest.check_hash(version / manifest.CLASSIFIER_FILE, described.classifier_sha256)
    return classifier_head.read(version / manifest.CLASSIFIER_FILE, len(described.labels))


def _check_inside(repository: Path, *paths: Path) -> None:
    """Symbolic links are followed to what lies in the repository, and to nothing else."""
    for path in paths:
        if not path.resolve().is_relative_to(repository.resolve()):
            raise LoadError(f"{path}: is a link that leads out of the repository")


def checked(runtime: Runtime, source: Source, images: UInt8Array, logits: Float32Array) -> Load:
    """Loads executors of a source with the threads that are wanted, and checks each with the golden images; raises as
    `Runtime.load` and `check_golden`."""

    def load(threads: int, copies: int, *, alone: bool = False) -> list[Executor]:
        loaded = runtime.load(replace(source, threads=threads, alone=alone), copies)
        with closed_on_error(loaded):
            for executor in loaded:
                check_golden(executor, images, logits, source.artifact.file, source.precision)
        return loaded

    return load


def check_golden(executor: Executor, images: UInt8Array, logits: Float32Array, file: str, precision: Precision) -> None:
    """Run the golden images on the executor that will serve: at once and alone, or in each bucket on each lane.

    Raises:
        LoadError: the logits are further from the eager model's than the precision allows.
    """
    if not executor.computes:
        return
    for size in executor.buckets or (len(images), 1):
        # Beginning again at the first image, until the last batch is full.
        order = np.arange(-(-len(images) // size) * size) % len(images)
        for _ in range(executor.lanes):  # executors give their lanes in turn
            answers = []
            for chosen in np.split(order, len(order) // size):
                try:
                    answers.append(compute(executor, images[chosen], frozenset({"logits"}))["logits"])
                except Exception as error:  # the runtime's exceptions have no common base
                    raise LoadError(f"{file}: the runtime fails on {size} golden images: {error}") from error
            try:
                parity.check(np.concatenate(answers), logits[order], precision)
            except ParityError as error:
                raise LoadError(f"{file}: wrong answers for the golden images, {size} at a time: {error}") from error


def _check_fits(max_batch: int, buckets: Sequence[int]) -> None:
    if buckets and max_batch > buckets[-1]:
        raise LoadError(f"max_batch is {max_batch}, and the executor computes at most {buckets[-1]} images at once")
