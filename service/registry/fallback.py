"""What serves a version that was meant for TensorRT, while there is no engine that this machine can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from models.artifact import manifest
from models.artifact.manifest import ManifestError, Precision
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from service import executors
from service.executors.base import ExecutorError
from service.registry.execution_config import ExecutionConfig

_CUDA, _CPU = "onnxruntime-cuda", "onnxruntime-cpu"


def instead(version: Path, choice: ExecutionConfig) -> ExecutionConfig:
    """The choice with ONNX Runtime on the GPU, or where it is not there on the CPU.

    It computes in the precision that was asked for where it can, else in float32: slower, and not less accurate.
    """
    executor = _executor(choice.executor.partition(":")[2])
    return replace(choice, executor=executor, precision=_precision(version, executor, choice.precision))


def _executor(gpus: str) -> str:
    try:
        cuda_driver.devices()
    except NoDevice:
        return _CPU
    import onnxruntime  # a service whose models no TensorRT is meant for may do without

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return _CPU
    return f"{_CUDA}:{gpus}" if gpus else _CUDA


def _precision(version: Path, executor: str, wanted: Precision) -> Precision:
    try:
        executors.find(executor).choose(manifest.read(version), wanted)
    except (ExecutorError, ManifestError):  # who loads the version says what is wrong with it
        return "float32"
    return wanted
