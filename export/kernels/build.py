"""An ONNX file as a CUDA engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.errors import EngineError
from export.kernels.compile import TRITON, Compiled, check_parameters, compile_all
from export.kernels.packing.planner import PlanDraft, draft
from export.kernels.reading.reader import read
from export.kernels.tiles import target
from models.artifact import manifest
from models.artifact.manifest import FusionReport
from models.runtime.cuda_engine.file import CudaEngine, pack
from models.runtime.cuda_engine.plan import Binary, LaunchPlan, MapArgument, Precision, Program

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


def build(path: Path, precision: Precision, architecture: str, batches: Sequence[int] = BATCHES) -> CudaEngine:
    """Compile a network. Needs no GPU and no torch.

    Args:
        path: float32 file of `formats.onnx` for half precision, or the portable int8 file.
        precision: precision of the convolutions.
        architecture: such as sm_90.
        batches: batch sizes.

    Raises:
        UnsupportedNetwork: no kernels compute the network.
        UnsupportedDevice: there are no kernels for the architecture.
        NoTriton: the compiler is not installed.
        EngineError: a kernel cannot be compiled.
    """
    wanted = target(architecture)
    planned = draft(read(path), precision, wanted, batches, manifest.sha256(path), f"triton {TRITON}")
    compiled = compile_all(planned.keys, architecture)
    plan, cubins = _with_binaries(planned, compiled)
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


def _with_binaries(planned: PlanDraft, compiled: list[Compiled]) -> tuple[LaunchPlan, list[bytes]]:
    """The plan with what the compiler made; equal cubins are stored once."""
    cubins: dict[bytes, int] = {}
    kernels = []
    for kernel, each in zip(planned.plan.kernels, compiled, strict=True):
        check_parameters(kernel, each)
        binary = Binary(
            cubin=cubins.setdefault(each.cubin, len(cubins)),
            function=each.function.name,
            shared_bytes=each.shared_bytes,
            registers=each.function.registers,
            stack_bytes=each.function.stack_bytes,
        )
        kernels.append(kernel.model_copy(update={"binary": binary}))
    programs = tuple(_with_maps(planned.plan, program, compiled) for program in planned.plan.programs)
    return planned.plan.model_copy(update={"kernels": tuple(kernels), "programs": programs}), list(cubins)


def _with_maps(plan: LaunchPlan, program: Program, compiled: list[Compiled]) -> Program:
    """A program whose tensor maps have the box and the swizzle that the compiler chose.

    A map is used with one pair of them: its box is a part of its key in the planner, and the swizzle follows from it.
    """
    maps = list(program.tensor_maps)
    chosen: dict[int, tuple[tuple[int, ...], int]] = {}
    for launch in program.launches:
        made = compiled[launch.kernel]
        used = [argument.tensor_map for argument in launch.arguments if isinstance(argument, MapArgument)]
        for number, box, swizzle in zip(used, made.boxes, made.swizzles, strict=True):
            setting = (box[::-1], swizzle)
            if chosen.setdefault(number, setting) != setting:
                raise EngineError(f"{plan.kernels[launch.kernel].name}: two kernels read one tensor map differently")
            maps[number] = maps[number].model_copy(update={"box": setting[0], "swizzle": swizzle})
    return program.model_copy(update={"tensor_maps": tuple(maps)})
