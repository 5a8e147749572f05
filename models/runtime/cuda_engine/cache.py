"""CUDA engines in the engine cache, beside TensorRT's plans.

    cache/<SHA-256 of the ONNX file>/<precision>-sm90-cuda2.engine
    cache/tiles-sm90-cuda2.json                configurations of kernels that were measured, for engines of all files

An engine describes itself. The number behind `cuda` is the version of the format, so a reader of another version finds
no file.
"""

from __future__ import annotations

from pathlib import Path

from models.files import atomic_write
from models.runtime.cuda_engine.file import CudaEngine, CudaEngineError, encode, read
from models.runtime.cuda_engine.plan import VERSION, Precision
from models.runtime.engine_cache import PlanDamaged, PlanForeign, PlanMissing
from models.runtime.engine_plan import ComputeCapability


def engine_file(cache: Path, onnx_sha256: str, precision: Precision, capability: ComputeCapability) -> Path:
    """The file of an engine, which may not exist."""
    return cache / onnx_sha256 / f"{precision}-{capability.sm}-cuda{VERSION}.engine"


def tiles_file(cache: Path, capability: ComputeCapability) -> Path:
    """The file of measured configurations for a kind of GPU, which may not exist. `export` reads and writes it."""
    return cache / f"tiles-{capability.sm}-cuda{VERSION}.json"


def built(cache: Path, onnx_sha256: str) -> list[Path]:
    """All engines of an ONNX file in this version of the format."""
    return sorted((cache / onnx_sha256).glob(f"*-cuda{VERSION}.engine"))


def write(cache: Path, engine: CudaEngine) -> Path:
    """Store an engine under the name that its plan gives; a reader gets the old file or all of the new one.

    Raises:
        OSError: the file cannot be written.
    """
    plan = engine.plan
    capability = ComputeCapability.of_architecture(plan.architecture)
    path = engine_file(cache, plan.onnx_sha256, plan.precision, capability)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, encode(engine))
    return path


def find(cache: Path, onnx_sha256: str, precision: Precision, capability: ComputeCapability) -> CudaEngine:
    """The engine of a file for a kind of GPU, checked in full.

    Raises:
        PlanMissing: none was built.
        PlanForeign: all engines are for other GPUs.
        PlanDamaged: the engine cannot be used.
    """
    path = engine_file(cache, onnx_sha256, precision, capability)
    if not path.exists():
        others = [other.name for other in built(cache, onnx_sha256) if other.name.startswith(f"{precision}-")]
        if others:
            raise PlanForeign(f"{', '.join(others)}: built for other GPUs, this one has {capability}")
        raise PlanMissing(f"no CUDA engine in {precision} has been built for compute capability {capability}")
    try:
        engine = read(path)
    except CudaEngineError as error:
        raise PlanDamaged(str(error)) from error
    expected = (onnx_sha256, precision, capability.architecture)
    if (engine.plan.onnx_sha256, engine.plan.precision, engine.plan.architecture) != expected:
        raise PlanDamaged(f"{path.name}: is the engine of another file, precision or GPU: build it again")
    return engine
