"""The state of a version's engine, of whichever kind its executor needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.artifact.manifest import Manifest
from service.messages.status import PlanStatus
from service.registry.engines import cuda, tensorrt
from service.registry.execution_config import ExecutionConfig


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine that computes a version, or could."""

    kind: str
    """TensorRT or CUDA engine, for messages."""
    status: PlanStatus
    needed: bool
    """Whether the executor of the version is the one that runs it."""
    expected: bool
    """Whether the version is served with it as soon as there is one."""


def find_state(cache: Path, version: Path, described: Manifest, config: ExecutionConfig) -> EngineState | None:
    """Find the engine of a version. Reads files, so call it in a thread.

    Args:
        cache: folder of the engine cache.
        version: folder of the version.
        described: manifest of the version.
        config: execution config of the version.

    Returns:
        None if none is needed, and none was built or could be used.
    """
    if (status := cuda.find_plan_status(cache, version, described, config)) is not None:
        return EngineState("CUDA engine", status, cuda.is_cuda(config.executor), expected=True)
    if (status := tensorrt.find_plan_status(cache, version, described, config)) is not None:
        needed = tensorrt.is_tensorrt(config.executor)
        return EngineState("TensorRT", status, needed, expected=needed)
    return None
