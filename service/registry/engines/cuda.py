"""CUDA engines of served versions: whether this machine can run one."""

from __future__ import annotations

import shlex
from pathlib import Path

from models.artifact.manifest import Manifest, Precision
from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device, NoDevice
from models.runtime.cuda_engine import cache as engine_files
from models.runtime.cuda_engine.plan import Precision as EnginePrecision
from models.runtime.engine_cache import EngineCacheError, PlanMissing
from models.runtime.engine_plan import ComputeCapability
from service import executors
from service.executors.base import ExecutorError
from service.messages.status import PlanStatus
from service.registry.default_executor import ENGINE, engine_precisions, has_gpu
from service.registry.execution_config import ExecutionConfig

_OLDEST = ComputeCapability(8, 0)
"""Kernels are compiled for GPUs from this one on."""


def is_cuda(executor: str) -> bool:
    """Whether an executor `NAME[:ARGUMENT]` runs CUDA engines."""
    return executor.partition(":")[0] == ENGINE


def find_plan_status(cache: Path, version: Path, described: Manifest, config: ExecutionConfig) -> PlanStatus | None:
    """Compare the engines of a version in the cache with this machine. Reads files, so call it in a thread.

    Args:
        cache: folder of the engine cache.
        version: folder of the version.
        described: manifest of the version.
        config: execution config of the version.

    Returns:
        None if another executor was chosen, or no engine is possible: there is no GPU, or float32 is set.
    """
    precision: Precision | None = None if config.provenance.precision == "default rule" else config.precision
    if not is_cuda(config.executor):
        if config.provenance.executor != "default rule" or not engine_precisions(precision) or not has_gpu():
            return None
    elif config.precision in engine_precisions(None):
        precision = config.precision
    try:
        found = devices(config.executor)
    except NoDevice as error:
        return PlanStatus(state="UNUSABLE", reason=str(error))
    if not cuda_driver.has_bindings():
        return PlanStatus(state="UNUSABLE", reason="the package cuda-bindings is not installed")
    for device in found:
        if device.compute_capability < _OLDEST:
            reason = f"{device.name} has compute capability {device.compute_capability}, CUDA engines need {_OLDEST}"
            return PlanStatus(state="UNUSABLE", reason=reason)
    for device in found:
        if (unfit := _find_unfit_reason(cache, described, precision, device)) is not None:
            return PlanStatus(state="MISSING", reason=f"{unfit}; build it: {_command(version, cache, precision)}")
    return PlanStatus(state="READY")


def devices(executor: str) -> list[Device]:
    """The GPUs that an executor names; for another executor, the first one.

    Raises:
        NoDevice: there is no such GPU.
    """
    argument = executor.partition(":")[2] if is_cuda(executor) else ""
    numbers = [int(number) for number in argument.split(",") if number.isdecimal()]
    return [cuda_driver.device(number) for number in numbers or [0]]


def _find_unfit_reason(cache: Path, described: Manifest, precision: Precision | None, device: Device) -> str | None:
    """Why no engine in the cache fits a GPU; None if one fits."""
    reasons: list[EngineCacheError | ExecutorError] = []
    for candidate in engine_precisions(precision):
        try:
            artifact = executors.find(ENGINE).select_artifact(described, candidate)
            engine_files.find(cache, artifact.sha256, candidate, device.compute_capability)
            return None
        except (EngineCacheError, ExecutorError) as error:
            reasons.append(error)
    # An engine that was built says more than one that was not.
    built = [reason for reason in reasons if not isinstance(reason, PlanMissing | ExecutorError)]
    return str((built or reasons or [f"no CUDA engine computes in {precision}"])[0])


def _command(version: Path, cache: Path, precision: Precision | None) -> str:
    first: EnginePrecision = (*engine_precisions(precision), "float16")[0]
    command = ["resnet-export", "engines", str(version), "--runtime", "cuda", "--cache", str(cache)]
    return shlex.join([*command, "--precision", first])
