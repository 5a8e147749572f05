"""The launches of a CUDA engine's plan on a device.

The kernels' parameters are compared with the plan when they are loaded, so a launch touches no memory that the plan
does not give it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial

from models.runtime.cuda.device import CudaDevice
from models.runtime.cuda.kernels import Arguments, LoadedKernel, encode_tensor_map
from models.runtime.cuda_engine.plan import (
    PARAMETER_BYTES,
    Argument,
    Buffer,
    Kernel,
    LaunchPlan,
    MapArgument,
    ParameterKind,
    Pointer,
    Program,
)
from models.runtime.engine_cache import PlanDamaged

_WARP = 32
_FORMATS: Mapping[ParameterKind, str] = {
    "pointer": "<Q",
    "int32": "<i",
    "int64": "<q",
    "float32": "<f",
    "scratch": "<Q",
}


class LoadedEngine:
    """Kernels and weights on a device, which all programs share.

    Args:
        device: the device, which owns them.
        plan: a plan whose kernels are compiled.
        cubins: code of the kernels, in the order of the plan.
        weights: content of the buffer of weights.

    Raises:
        CudaError: the driver does not load a kernel, or it has other parameters than the plan.
        PlanDamaged: a kernel is not compiled.
    """

    def __init__(
        self, device: CudaDevice, plan: LaunchPlan, cubins: Sequence[bytes | memoryview], weights: memoryview
    ) -> None:
        libraries = [device.load(bytes(cubin)) for cubin in cubins]
        self.plan = plan
        self.kernels = [_load_kernel(libraries, kernel) for kernel in plan.kernels]
        self.weights = device.upload(weights, device.make_stream())
        """Address of the weights."""


class PlacedProgram:
    """A program with its memory and its launches on one stream.

    Activations have an arena of their own: parts of it hold zeros that no kernel overwrites, at other places for
    another program. The zeros are enqueued, and not waited for.

    Args:
        device: the device, which owns the memory.
        stream: the stream of all launches.
        engine: kernels and weights on the device.
        program: a program of the engine's plan.
        addresses: addresses of the images and the outputs, by the names of their buffers.

    Raises:
        CudaError: there is too little memory, or the driver refuses a tensor map.
    """

    def __init__(
        self, device: CudaDevice, stream: int, engine: LoadedEngine, program: Program, addresses: Mapping[str, int]
    ) -> None:
        arena = device.allocate(max(1, program.arena_bytes))
        self.bases = [_base(buffer, arena, engine.weights, addresses) for buffer in program.buffers]
        """Address of each buffer."""
        for buffer, base in zip(program.buffers, self.bases, strict=True):
            if buffer.zeroed:
                device.fill(base, 0, buffer.bytes, stream)
        maps = [
            encode_tensor_map(tensor_map, self.bases[tensor_map.address.buffer] + tensor_map.address.offset)
            for tensor_map in program.tensor_maps
        ]
        self.launches = [
            partial(
                engine.kernels[launch.kernel].launch,
                launch.grid,
                Arguments(_values(engine.plan.kernels[launch.kernel], launch.arguments, self.bases, maps)),
                stream,
            )
            for launch in program.launches
        ]
        """Functions that enqueue one kernel each, in the order of the plan."""


def _base(buffer: Buffer, arena: int, weights: int, addresses: Mapping[str, int]) -> int:
    if buffer.kind == "activation":
        return arena + buffer.offset
    return weights if buffer.kind == "weights" else addresses[buffer.name]


def _load_kernel(libraries: Sequence[object], planned: Kernel) -> LoadedKernel:
    binary = planned.binary
    if binary is None:
        raise PlanDamaged(f"the kernel {planned.name} is not compiled: build the engine again")
    sizes = [PARAMETER_BYTES[parameter.kind] for parameter in planned.parameters]
    return LoadedKernel(libraries[binary.cubin], binary.function, sizes, _WARP * planned.warps, binary.shared_bytes)


def _values(kernel: Kernel, arguments: Sequence[Argument], bases: Sequence[int], maps: Sequence[bytes]) -> list[bytes]:
    """The bytes of each argument of a launch."""
    values = []
    for parameter, argument in zip(kernel.parameters, arguments, strict=True):
        if isinstance(argument, MapArgument):
            values.append(maps[argument.tensor_map])
        elif isinstance(argument, Pointer):
            values.append(struct.pack(_FORMATS[parameter.kind], bases[argument.buffer] + argument.offset))
        else:
            values.append(struct.pack(_FORMATS[parameter.kind], argument.value))
    return values
