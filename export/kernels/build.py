"""An ONNX file as a CUDA engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.kernels.compile import COMPILER, Compiled, compile_all
from export.kernels.linking import link
from export.kernels.measuring.measuring import Measuring
from export.kernels.packing.launches import KernelKey
from export.kernels.packing.planner import draft
from export.kernels.reading.reader import read
from export.kernels.tiles import target
from models.artifact import manifest
from models.artifact.manifest import FusionReport
from models.runtime.cuda_engine.file import CudaEngine, pack
from models.runtime.cuda_engine.plan import LaunchPlan, Precision

BATCHES = (1, 8, 64)
"""Batch sizes of an engine; a service fills the smallest one that is large enough."""


@dataclass(frozen=True)
class Resources:
    """Registers and memory of the kernels of an engine."""

    kernels: int
    most_registers: int
    spilling: int
    """Kernels whose values do not all fit the registers."""
    most_stack_bytes: int
    """Local memory of these kernels, per thread."""
    most_shared_bytes: int


def build(
    path: Path,
    precision: Precision,
    architecture: str,
    batches: Sequence[int] = BATCHES,
    measuring: Measuring | None = None,
) -> CudaEngine:
    """Compile a network. Needs no GPU and no torch.

    Args:
        path: float32 file of `formats.onnx` for half precision, or the portable int8 file.
        precision: precision of the convolutions.
        architecture: such as sm_90.
        batches: batch sizes.
        measuring: chooses the configurations on a GPU; without it, the table and its rule do.

    Raises:
        UnsupportedNetwork: no kernels compute the network.
        UnsupportedDevice: there are no kernels for the architecture.
        NoTriton: the compiler is not installed.
        EngineError: a kernel cannot be compiled.
    """
    wanted, network, sha256 = target(architecture), read(path), manifest.sha256(path)
    planned = draft(network, precision, wanted, batches, sha256, COMPILER)
    compiled: dict[KernelKey, Compiled] = {}
    if measuring is not None:  # with a network that has a plan
        measured, compiled = measuring.measure(network, precision, wanted, batches)
        planned = draft(network, precision, wanted, batches, sha256, COMPILER, measured)
    missing = [key for key in planned.keys if key not in compiled]
    compiled |= zip(missing, compile_all(missing, architecture), strict=True)
    plan, cubins = link(planned, [compiled[key] for key in planned.keys])
    return pack(plan, planned.weights, cubins)


def resources(plan: LaunchPlan) -> Resources:
    """The resource report of a compiled plan."""
    binaries = [kernel.binary for kernel in plan.kernels if kernel.binary is not None]
    return Resources(
        kernels=len(binaries),
        most_registers=max(binary.registers for binary in binaries),
        spilling=sum(binary.stack_bytes > 0 for binary in binaries),
        most_stack_bytes=max(binary.stack_bytes for binary in binaries),
        most_shared_bytes=max(binary.shared_bytes for binary in binaries),
    )


def fusion(plan: LaunchPlan) -> FusionReport:
    """The fusion report: all residual additions are inside convolution kernels, or the network is refused."""
    count = sum(len(layer.additions) for layer in plan.layers)
    return FusionReport(residual_adds=count, fused=count)
