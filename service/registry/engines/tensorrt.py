"""TensorRT engines of served versions: whether this machine can run one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from models.artifact.manifest import Artifact, Manifest, Precision
from models.runtime import engine_cache, tensorrt_runtime
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import EngineCacheError
from models.runtime.engine_plan import Platform
from models.runtime.tensorrt_runtime import NoTensorRT
from service.messages.status import PlanStatus
from service.registry.execution_config import ExecutionConfig


def is_tensorrt(executor: str) -> bool:
    """Whether an executor `NAME[:ARGUMENT]` is TensorRT."""
    return executor.partition(":")[0] == "tensorrt"


def find_plan_status(cache: Path, version: Path, described: Manifest, config: ExecutionConfig) -> PlanStatus | None:
    """Compare the engines of a version in the cache with this machine. Reads files, so call it in a thread.

    Args:
        cache: folder of the engine cache.
        version: folder of the version.
        described: manifest of the version.
        config: execution config of the version.

    Returns:
        None if TensorRT is not configured, and no engine was built or another runtime than ONNX Runtime is configured.
    """
    configured = is_tensorrt(config.executor)
    if not configured and not config.executor.startswith("onnxruntime"):
        return None
    artifact = _find_artifact(described, config.precision)
    if artifact is None:
        return None
    plans = engine_cache.built(cache, artifact.sha256, config.precision)
    if not plans and not configured:
        return None
    try:
        unfit = [_find_unfit_reason(cache, artifact, platform) for platform in tensorrt_runtime.platforms()]
    except (NoDevice, NoTensorRT) as error:
        return PlanStatus(state="UNUSABLE", reason=_describe_unusable(plans, error))
    if None in unfit:
        return PlanStatus(state="READY")
    return PlanStatus(state="MISSING", reason=f"{unfit[-1]}; build it: {_command(version, cache, config.precision)}")


def _find_artifact(described: Manifest, precision: Precision) -> Artifact | None:
    """The file that TensorRT engines of this precision are built from, if the version has one."""
    wanted = ("onnx", precision)
    return next((item for item in described.artifacts if (item.format, item.precision) == wanted), None)


def _find_unfit_reason(cache: Path, artifact: Artifact, platform: Platform) -> str | None:
    """Why no engine in the cache fits a platform; None if one fits."""
    try:
        engine_cache.find(cache, artifact.sha256, artifact.precision, platform)
    except EngineCacheError as error:
        return str(error)
    return None


def _command(version: Path, cache: Path, precision: Precision) -> str:
    return shlex.join(["resnet-export", "engines", str(version), "--cache", str(cache), "--precision", precision])


def _describe_unusable(plans: Sequence[Path], error: Exception) -> str:
    """Compare what an engine was built for with this machine, which has no TensorRT."""
    if not plans:
        return str(error)
    try:
        plan = engine_cache.read(plans[0])
    except EngineCacheError as damaged:
        return f"{damaged}; {error}"
    return f"{plan.name}: built for {plan.built_for}, and this machine: {error}"
