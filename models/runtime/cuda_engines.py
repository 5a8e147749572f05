"""CUDA engines in the engine cache: their files, and the one that a GPU can run.

    cache/<SHA-256 of the ONNX file>/<precision>-sm90-cuda1.engine      1 is the version of the format

An engine describes itself, so there is no description beside it. `export` writes the files, `service` reads them.
"""

from __future__ import annotations

import re
from pathlib import Path

from models.artifact.manifest import Precision
from models.runtime.cuda_driver import Device
from models.runtime.cuda_engine.file import CudaEngine, CudaEngineError, CudaEngineOutdated, read
from models.runtime.cuda_engine.plan import VERSION
from models.runtime.engine_cache import EngineCacheError, PlanDamaged, PlanForeign, PlanMissing
from models.runtime.engine_plan import ComputeCapability

PRECISIONS: tuple[Precision, ...] = ("float16", "bfloat16", "int8")
"""Precisions of engines, the most accurate one first."""

OLDEST = ComputeCapability(8, 0)
"""The oldest GPUs that kernels are built for."""

_NAME = re.compile(r"(?P<precision>\w+)-sm(?P<major>[0-9]+)(?P<minor>[0-9])-cuda(?P<version>[0-9]+)\.engine")


class GpuTooOld(EngineCacheError):
    """No kernels are built for GPUs of this age."""


def architecture_of(device: Device) -> str:
    """The architecture of a GPU as engines name it, such as sm_90."""
    return f"sm_{device.compute_capability.major}{device.compute_capability.minor}"


def path(cache: Path, onnx_sha256: str, precision: Precision, architecture: str) -> Path:
    """The file of an engine of this version of the format, whether it exists or not.

    Args:
        cache: folder.
        onnx_sha256: hash of the ONNX file that the engine is built from.
        precision: precision of the arithmetic.
        architecture: of the GPU, such as sm_90.
    """
    return cache / onnx_sha256 / f"{precision}-{architecture.replace('_', '')}-cuda{VERSION}.engine"


def built(cache: Path, onnx_sha256: str, precision: Precision) -> list[Path]:
    """All engines of a file in a precision, for any GPU and of any version of the format."""
    return sorted((cache / onnx_sha256).glob(f"{precision}-*.engine"))


def find(cache: Path, onnx_sha256: str, precision: Precision, device: Device) -> CudaEngine:
    """The engine that a GPU can run.

    Args:
        cache: folder.
        onnx_sha256: hash of the ONNX file that the engine was built from.
        precision: precision of the arithmetic.
        device: the GPU.

    Returns:
        The engine, whose content and plan have been checked.

    Raises:
        GpuTooOld: no engine can be built for the GPU.
        PlanMissing: no engine was built for this file in this precision.
        PlanForeign: all engines are for other GPUs or other versions of the format.
        PlanDamaged: the engine is damaged, or that of another file.
    """
    here = f"compute capability {device.compute_capability} ({device.name})"
    if device.compute_capability < OLDEST:
        raise GpuTooOld(f"CUDA engines need compute capability {OLDEST}, this GPU has {here}")
    wanted = path(cache, onnx_sha256, precision, architecture_of(device))
    found = built(cache, onnx_sha256, precision)
    if not found:
        raise PlanMissing(f"no engine in {precision} has been built for {here}")
    if wanted not in found:
        raise PlanForeign(f"{found[0].name}: built for {_describe(found[0])}, this GPU has {here}")
    try:
        engine = read(wanted)
    except CudaEngineOutdated as error:
        raise PlanForeign(str(error)) from error
    except CudaEngineError as error:
        raise PlanDamaged(str(error)) from error
    plan = engine.plan
    if (plan.onnx_sha256, plan.precision, plan.architecture) != (onnx_sha256, precision, architecture_of(device)):
        raise PlanDamaged(f"{wanted.name}: it is another engine than its name says: build it again")
    return engine


def _describe(engine: Path) -> str:
    """The GPUs and the version of the format that the name of an engine states."""
    name = _NAME.fullmatch(engine.name)
    if name is None:
        return "something unknown"
    text = f"compute capability {name['major']}.{name['minor']}"
    return text if int(name["version"]) == VERSION else f"{text} in version {name['version']} of the format"
