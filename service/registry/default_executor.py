"""The executor of a version for which none is set or measured.

On a GPU it is the CUDA engine of the version, if one was built for that GPU, and otherwise ONNX Runtime. The rule reads
the driver's list of GPUs and names of files, never measured time, so two replicas on equal machines serve alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from models.artifact.manifest import Manifest, Precision
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from models.runtime.cuda_engine import cache as engine_files
from models.runtime.cuda_engine.plan import Precision as EnginePrecision
from service import executors
from service.executors.base import ExecutorError

ENGINE, GPU, CPU = "cuda", "onnxruntime-cuda", "onnxruntime-cpu"


class DefaultExecutor(NamedTuple):
    """An executor with the precision that it computes in."""

    executor: str
    precision: Precision
    reason: str | None
    """Why the GPU computes; None on a machine without one."""


def find_default(cache: Path, described: Manifest, precision: Precision | None) -> DefaultExecutor:
    """The executor of a version on this machine, on the first GPU if there is one.

    Args:
        cache: folder of the engine cache.
        described: manifest of the version.
        precision: the precision that is set. None: that of the most accurate engine, and float32 without an engine.
    """
    if not has_gpu():
        return DefaultExecutor(CPU, precision or "float32", None)
    for candidate in engine_precisions(precision):
        if path := _engine(cache, described, candidate):
            return DefaultExecutor(ENGINE, candidate, f"{path.name} is in the engine cache")
    executor = onnxruntime_executor()
    if precision is not None and not supports(executor, described, precision) and supports(CPU, described, precision):
        executor = CPU
    return DefaultExecutor(executor, precision or "float32", "no CUDA engine is in the engine cache for this GPU")


def find_engine_precision(cache: Path, described: Manifest) -> Precision:
    """The precision of the executor `cuda` if none is set: that of the most accurate engine, and float16 without one.

    Args:
        cache: folder of the engine cache.
        described: manifest of the version.
    """
    built = [name for name in engine_precisions(None) if has_gpu() and _engine(cache, described, name)]
    return (*built, "float16")[0]


def find_default_device(cache: Path) -> Literal["cpu", "gpu"]:
    """Kind of device that computes models for which no executor is set: a GPU if ONNX Runtime can use one, or an engine
    is in the cache."""
    if has_gpu() and (onnxruntime_executor() != CPU or any(cache.glob("*/*.engine"))):
        return "gpu"
    return "cpu"


def has_gpu() -> bool:
    """Whether there is a GPU that this process can compute on."""
    try:
        cuda_driver.devices()
    except NoDevice:
        return False
    return cuda_driver.has_bindings()


def engine_precisions(precision: Precision | None) -> tuple[EnginePrecision, ...]:
    """Precisions of CUDA engines to look for, the most accurate one first.

    Args:
        precision: the precision that is set, if there is one.
    """
    names: tuple[EnginePrecision, ...] = get_args(EnginePrecision)
    return names if precision is None else tuple(name for name in names if name == precision)


def supports(executor: str, described: Manifest, precision: Precision) -> bool:
    """Whether an executor computes a version in a precision. If it cannot be used at all, loading reports the error."""
    try:
        executors.find(executor).select_artifact(described, precision)
    except ExecutorError:
        return False
    return True


def onnxruntime_executor(gpus: str = "") -> str:
    """ONNX Runtime on GPUs, numbers with commas, if it can use them here; otherwise on the CPU."""
    if not has_gpu():
        return CPU
    from models.runtime.onnxruntime import ort  # a service with other executors need not have it

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return CPU
    return f"{GPU}:{gpus}" if gpus else GPU


def _engine(cache: Path, described: Manifest, precision: EnginePrecision) -> Path | None:
    """The file of an engine for the first GPU, if it exists."""
    try:
        artifact = executors.find(ENGINE).select_artifact(described, precision)
    except ExecutorError:
        return None
    capability = cuda_driver.device(0).compute_capability
    path = engine_files.engine_file(cache, artifact.sha256, precision, capability)
    return path if path.exists() else None
