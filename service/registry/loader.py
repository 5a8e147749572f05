"""Loads one version: reads its manifest, verifies its files, resolves its execution config, and makes its engine."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from models.artifact import manifest
from models.artifact.card import make_card
from models.artifact.manifest import Artifact, LesionBlock, Manifest, ManifestError
from models.runtime.cuda_driver import NoDevice
from service import executors
from service.core.cpus import available_cpus
from service.core.naming import ENCODED
from service.core.settings import Settings
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.engine.instance_group import InstancePlan, estimate_multiply_adds, pinned_cpus, plan_instances
from service.engine.progress import stall_seconds
from service.executors.base import Executor, ExecutorError, Source, closed_on_error
from service.messages.model import ServedModel
from service.messages.status import PlanStatus
from service.registry.engines import trial
from service.registry.engines.cuda import is_cuda
from service.registry.engines.fallback import cpu_config, fallback_config
from service.registry.engines.status import find_state
from service.registry.execution_config import ExecutionConfig, resolve_execution_config
from service.registry.repository import LoadError
from service.registry.verification import check_files, check_inside, load_verified, read_classifier
from service.registry.version import LoadedVersion
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_KEYS = itertools.count(time.time_ns())
"""An engine process that replaces another has other keys."""


class Footprint(NamedTuple):
    """The sizes that the memory of a version depends on."""

    file_bytes: int
    """Size of the artifact."""
    instances: int
    """Instances that load it."""
    pixels: int
    """Pixels of an image that it takes."""


@dataclass(frozen=True, slots=True)
class _Instances:
    """The loaded instances of a version."""

    plan: InstancePlan
    executors: Sequence[Executor]
    single_image: Executor | None
    seconds_per_image: float
    """Time of an image in a large batch."""


class Loader:
    """Loads versions. Used in threads, for several versions at the same time.

    Args:
        settings: the repository, the engine cache, the execution config and limits.
        metrics: counts loads, and is passed to the engines.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics

    def load(self, version: Path) -> LoadedVersion:
        """Load a version and verify it with its golden images. Takes seconds.

        Args:
            version: folder of the version.

        Raises:
            LoadError: a file is missing or altered, the executor cannot be used, or its outputs are wrong.
        """
        with self._metrics.loading():
            try:
                return self._load(version)
            except (ManifestError, ExecutorError) as error:
                raise LoadError(str(error)) from error

    def footprint(self, version: Path) -> Footprint:
        """The file and the instances of a version, without loading it.

        Raises:
            LoadError: the version cannot be loaded.
        """
        try:
            described = self._read_manifest(version)
            config = resolve_execution_config(self._settings, described)
            artifact = executors.find(config.executor).select_artifact(described, config.precision)
            plan = _plan(version, described, config)
            instances = plan.instances + bool(plan.single_image_threads)
            height, width = described.preprocess.size
            return Footprint((version / artifact.file).stat().st_size, instances, height * width)
        except (ManifestError, ExecutorError, OSError) as error:
            raise LoadError(str(error)) from error

    def _load(self, version: Path) -> LoadedVersion:
        described = self._read_manifest(version)
        config = resolve_execution_config(self._settings, described)
        state = find_state(self._settings.cache, version, described, config)
        if state is None:
            return self._load_default(version, described, config, None)
        status = state.status
        if status.reason is not None:
            log.warning("%s version %d: no %s: %s", described.name, described.version, state.kind, status.reason)
        if not state.needed:
            loaded = self._load_default(version, described, config, status)
            return replace(loaded, awaits_engine=state.expected and status.state == "MISSING")
        if status.state == "READY":
            try:
                if is_cuda(config.executor):
                    trial.ensure_tried(self._settings.cache, version, described, config)
                return self._load_with(version, described, config, status)
            except (ExecutorError, LoadError, NoDevice) as error:
                log.error("%s version %d: no %s: %s", described.name, described.version, state.kind, error)
                status = PlanStatus(state="UNUSABLE", reason=str(error))
        loaded = self._load_default(version, described, fallback_config(described, config), status)
        reason = f"{state.kind} does not serve it: {status.reason}"
        return replace(loaded, fallback_reason=reason, awaits_engine=True)

    def _load_default(
        self, version: Path, described: Manifest, config: ExecutionConfig, plan_status: PlanStatus | None
    ) -> LoadedVersion:
        """As `_load_with`; with ONNX Runtime on the CPU if the default rule chose the GPU and it does not work."""
        on_cpu = cpu_config(described, config)
        try:
            return self._load_with(version, described, config, plan_status)
        except (ExecutorError, LoadError) as error:
            if on_cpu is None:
                raise
            log.error("%s version %d: the CPU computes: %s", described.name, described.version, error)
        return self._load_with(version, described, on_cpu, plan_status)

    def _read_manifest(self, version: Path) -> Manifest:
        name = self._settings.only_model
        if (name or version.parent.name).endswith(ENCODED):
            raise LoadError(f"names that end in {ENCODED} are reserved for the second name of each model under /v2")
        check_inside(self._settings.repository_folder, version / manifest.FILE_NAME)
        if name is None:
            return manifest.read(version)
        described = manifest.read_moved(version)
        if version != self._settings.repository_folder and version.name != str(described.version):
            raise LoadError(f"{version / manifest.FILE_NAME}: describes version {described.version}")
        return described.model_copy(update={"name": name})

    def _load_with(
        self, version: Path, described: Manifest, config: ExecutionConfig, plan_status: PlanStatus | None
    ) -> LoadedVersion:
        """Load a version with an execution config."""
        started = time.monotonic()
        runtime = executors.find(config.executor)
        artifact = runtime.select_artifact(described, config.precision)
        check_files(self._settings.repository_folder, version, described, artifact)
        classifier = read_classifier(version, described)
        instances = self._load_instances(version, described, artifact, config)
        engine = self._make_engine(described.name, instances)
        plan, computes = instances.plan, instances.executors[0].computes
        _log_ready(described, config, instances, time.monotonic() - started)
        served = ServedModel(
            key=next(_KEYS),
            name=described.name,
            version=str(described.version),
            labels=described.labels,
            architecture=described.architecture.name,
            preprocess=described.preprocess,
            outputs=described.outputs,
            lesion_blocks=_lesion_blocks(version, described) if computes else (),
            classifier=classifier if computes else None,
            executor=config.executor,
            precision=config.precision,
            artifact_format=artifact.format,
            accuracy=artifact.accuracy,
            card=make_card(described, version),
            threads=plan.threads,
            single_image_threads=plan.single_image_threads,
            concurrent_batches=engine.concurrent_batches,
            max_batch=plan.max_batch,
            provenance=config.provenance,
        )
        return LoadedVersion(served, engine, plan_status)

    def _load_instances(
        self, version: Path, described: Manifest, artifact: Artifact, config: ExecutionConfig
    ) -> _Instances:
        """Plan, load and verify the instances of a version."""
        runtime = executors.find(config.executor)
        if runtime.device == "gpu" and config.single_image_threads:
            raise ExecutorError(f"single_image_threads is for executors on the CPU, and {config.executor} is not")
        plan = _plan(version, described, config)
        gently = self._settings.memory_limit is not None  # a load is part of everyday work then
        source = Source(version, described, artifact, config.precision, plan.threads, cache=self._settings.cache)
        loaded, seconds_per_image = load_verified(runtime, source, plan.instances, gently)
        with closed_on_error(loaded):
            plan = replace(plan, max_batch=_fit_max_batch(plan.max_batch, config.max_batch, loaded[0].buckets))
            for executor in loaded:
                executor.prepare(plan.max_batch)
            single_image = None
            if plan.single_image_threads:
                alone = replace(source, threads=plan.single_image_threads, spin=True)
                single_image = load_verified(runtime, alone, gently=gently).executors[0]
        return _Instances(plan, loaded, single_image, seconds_per_image)

    def _make_engine(self, name: str, instances: _Instances) -> Engine:
        settings, plan, loaded = self._settings, instances.plan, instances.executors
        multi_instance = len(loaded) > 1 and loaded[0].device == "cpu"
        queue = BatchQueue(
            settings.max_in_flight_images,
            plan.max_batch,
            settings.max_delay_ms / 1000,
            split=multi_instance,
            single_image=instances.single_image is not None,
        )
        return Engine(
            loaded,
            queue,
            self._metrics,
            name,
            instances.single_image,
            pinned_cpus(loaded, plan.threads),
            stall_seconds(instances.seconds_per_image, plan.max_batch),
        )


def _lesion_blocks(version: Path, described: Manifest) -> tuple[LesionBlock, ...]:
    """The blocks that can be deleted: none without the file for it, or without ONNX Runtime, which computes it."""
    if described.lesion is None or find_spec("onnxruntime") is None:
        return ()
    return described.lesion.blocks if (version / described.lesion.artifact.file).is_file() else ()


def _plan(version: Path, described: Manifest, config: ExecutionConfig) -> InstancePlan:
    return plan_instances(
        executors.find(config.executor).device,
        available_cpus(),
        multiply_adds(version, described),
        instances=config.instances,
        threads=config.threads,
        single_image_threads=config.single_image_threads,
        max_batch=config.max_batch,
    )


def multiply_adds(version: Path, described: Manifest) -> int:
    """Multiply-adds per image: from the manifest, or estimated for a version that was exported before it had them."""
    if described.architecture.multiply_adds is not None:
        return described.architecture.multiply_adds
    artifacts = described.artifacts
    artifact = next((item for item in artifacts if item.precision == "float32"), artifacts[0])
    return estimate_multiply_adds((version / artifact.file).stat().st_size // 4, *described.preprocess.size)


def _fit_max_batch(planned: int, configured: int | None, buckets: Sequence[int]) -> int:
    """The largest batch, within the buckets of the executor."""
    if not buckets or planned <= buckets[-1]:
        return planned
    if configured is not None:
        raise LoadError(f"max_batch is {configured}, and the executor computes at most {buckets[-1]} images per batch")
    return buckets[-1]


def _log_ready(described: Manifest, config: ExecutionConfig, instances: _Instances, seconds: float) -> None:
    plan, devices = instances.plan, Counter(executor.device for executor in instances.executors)
    log.info(
        "%s version %d ready in %.1f s: %s, %s, %s, threads %d%s, batches of up to %d",
        described.name,
        described.version,
        seconds,
        config.executor,
        config.precision,
        ", ".join(f"{count} instance{'s' if count > 1 else ''} on {device}" for device, count in devices.items()),
        plan.threads,
        f", {plan.single_image_threads} for a single image" if plan.single_image_threads else "",
        plan.max_batch,
    )
