"""ONNX Runtime in the place of an engine."""

from __future__ import annotations

from models.artifact.manifest import Manifest, Precision
from service.messages.model import ConfigProvenance
from service.registry.default_executor import CPU, GPU, onnxruntime_executor, supports
from service.registry.execution_config import ExecutionConfig


def fallback_config(described: Manifest, config: ExecutionConfig, executor: str | None = None) -> ExecutionConfig:
    """The config that serves a version without its engine: ONNX Runtime on the same GPUs, otherwise on the CPU.

    Values that were set or measured for the engine are not used, except for the precision if ONNX Runtime has it;
    otherwise it is float32, which is slower and not less accurate.

    Args:
        described: manifest of the version.
        config: the config with the engine.
        executor: the executor to use. Default: ONNX Runtime.
    """
    executor = executor or onnxruntime_executor(config.executor.partition(":")[2])
    chosen = config.provenance.precision != "default rule"
    precision: Precision = config.precision if chosen and supports(executor, described, config.precision) else "float32"
    provenance = ConfigProvenance(
        executor="default rule",
        precision=config.provenance.precision if precision == config.precision else "default rule",
        threads="default rule",
        max_batch="default rule",
        reason=f"{config.executor} cannot serve the version",
    )
    return ExecutionConfig(executor=executor, precision=precision, provenance=provenance)


def cpu_config(described: Manifest, config: ExecutionConfig) -> ExecutionConfig | None:
    """The config that serves a version if ONNX Runtime cannot use the GPU; None if another executor was chosen."""
    if config.executor.partition(":")[0] != GPU or config.provenance.executor != "default rule":
        return None
    return fallback_config(described, config, CPU)
