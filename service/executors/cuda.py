"""CUDA engines of this project: kernels, weights and a launch plan from the engine cache, on one GPU.

    manifest ──► driver ──► GPU ──► engine cache ──► kernels, weights ──► programs ──► graphs

It needs the NVIDIA driver and cuda-bindings, and no compiler: `resnet-export engines` has compiled the kernels. The
plan was checked when the file was read, and the kernels' parameters are checked when they are loaded, so no launch can
touch memory that the plan does not give it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast, get_args

from models.artifact.manifest import INPUT, Precision
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from models.runtime.cuda_engine import cache
from models.runtime.cuda_engine.file import CudaEngine
from models.runtime.cuda_engine.plan import (
    PARAMETER_BYTES,
    Argument,
    Buffer,
    LaunchPlan,
    MapArgument,
    ParameterKind,
    Pointer,
    Program,
)
from models.runtime.cuda_engine.plan import Kernel as PlannedKernel
from models.runtime.cuda_engine.plan import Precision as EnginePrecision
from models.runtime.engine_cache import EngineCacheError, PlanDamaged
from service.executors.base import ExecutorError, Source
from service.executors.gpu.streams import CudaExecutor, opened

if TYPE_CHECKING:
    from models.runtime.cuda.device import CudaDevice
    from models.runtime.cuda.kernels import LoadedKernel

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float16": ("onnx", "float32"),
    "bfloat16": ("onnx", "float32"),
    "int8": ("onnx", "int8"),
}
DEVICES: Mapping[str, str] = {"gpu": "0"}

_WARP = 32
_FORMATS: Mapping[ParameterKind, str] = {
    "pointer": "<Q",
    "int32": "<i",
    "int64": "<q",
    "float32": "<f",
    "scratch": "<Q",
}


class CudaEngineExecutor(CudaExecutor):
    """Runs the engine that was built for the architecture of a GPU; `argument` is the number of the GPU.

    Raises:
        ExecutorError: there is no GPU, no engine for it, or the driver does not load the engine.
    """

    def __init__(self, source: Source) -> None:
        refusals = NoDevice, EngineCacheError, RuntimeError  # cuda-bindings raise it if the driver lacks a function
        with opened("cuda", source.argument, *refusals) as device:
            engine = _find(source, device.index)
            _check_signature(engine.plan, source)
            super().__init__(device, engine.plan.batches)
            self.plan = engine.plan
            loaded = _LoadedEngine(device, engine)
            self._open_streams(
                source.manifest.preprocess.shape, lambda stream: CudaProgram(device, stream, engine.plan, loaded)
            )


class _LoadedEngine:
    """Kernels and weights on a device, which all streams share."""

    def __init__(self, device: CudaDevice, engine: CudaEngine) -> None:
        libraries = [device.load(bytes(engine.cubin(number))) for number in range(len(engine.plan.cubins))]
        self.kernels = [_load_kernel(libraries, kernel) for kernel in engine.plan.kernels]
        self.weights = device.upload(engine.weights, device.make_stream())


class CudaProgram:
    """The launches of each batch size on one stream.

    Each batch size has an arena of its own: parts of it hold zeros that no kernel overwrites, at other places for
    another batch size.
    """

    capturable = True

    def __init__(self, device: CudaDevice, stream: int, plan: LaunchPlan, loaded: _LoadedEngine) -> None:
        self._device = device
        self._stream = stream
        self._plan = plan
        self._loaded = loaded
        self.outputs: Mapping[str, tuple[int, ...]] = {output.name: output.row for output in plan.outputs}
        self.launches: dict[int, list[Callable[[], None]]] = {}
        """Functions that enqueue one kernel each, in the order of the plan, by batch size."""

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        from models.runtime.cuda.kernels import Arguments

        program = next(program for program in self._plan.programs if program.batch == rows)
        bases = self._place(program, addresses)
        maps = _encode_maps(program, bases)
        launches = self.launches[rows] = [
            partial(
                self._loaded.kernels[launch.kernel].launch,
                launch.grid,
                Arguments(_values(self._plan.kernels[launch.kernel], launch.arguments, bases, maps)),
                self._stream,
            )
            for launch in program.launches
        ]

        def enqueue() -> None:
            for launch in launches:
                launch()

        return enqueue

    def _place(self, program: Program, addresses: Mapping[str, int]) -> list[int]:
        """The address of each buffer of a program; those that need zeros are filled."""
        arena = self._device.allocate(max(1, program.arena_bytes))
        bases = [self._base(buffer, arena, addresses) for buffer in program.buffers]
        for buffer, base in zip(program.buffers, bases, strict=True):
            if buffer.zeroed:
                self._device.fill(base, 0, buffer.bytes, self._stream)
        return bases

    def _base(self, buffer: Buffer, arena: int, addresses: Mapping[str, int]) -> int:
        if buffer.kind == "activation":
            return arena + buffer.offset
        if buffer.kind == "weights":
            return self._loaded.weights
        return addresses[INPUT if buffer.kind == "images" else buffer.name]


def _load_kernel(libraries: Sequence[object], planned: PlannedKernel) -> LoadedKernel:
    from models.runtime.cuda.kernels import LoadedKernel  # its bindings need not be installed without a GPU

    binary = planned.binary
    if binary is None:
        raise PlanDamaged(f"the kernel {planned.name} is not compiled: build the engine again")
    sizes = [PARAMETER_BYTES[parameter.kind] for parameter in planned.parameters]
    return LoadedKernel(libraries[binary.cubin], binary.function, sizes, _WARP * planned.warps, binary.shared_bytes)


def _encode_maps(program: Program, bases: Sequence[int]) -> list[bytes]:
    from models.runtime.cuda.kernels import encode_tensor_map

    return [
        encode_tensor_map(tensor_map, bases[tensor_map.address.buffer] + tensor_map.address.offset)
        for tensor_map in program.tensor_maps
    ]


def _values(
    kernel: PlannedKernel, arguments: Sequence[Argument], bases: Sequence[int], maps: Sequence[bytes]
) -> list[bytes]:
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


def _find(source: Source, index: int) -> CudaEngine:
    """The engine of a version for a GPU."""
    if source.precision not in get_args(EnginePrecision):
        raise ExecutorError(f"cuda does not compute in {source.precision}")
    precision = cast(EnginePrecision, source.precision)
    capability = cuda_driver.device(index).compute_capability
    return cache.find(source.cache, source.artifact.sha256, precision, capability)


def _check_signature(plan: LaunchPlan, source: Source) -> None:
    """Check that an engine has the images and outputs of a version."""
    image, outputs = tuple(source.manifest.preprocess.shape), tuple(output.name for output in plan.outputs)
    if plan.image != image or set(outputs) != set(source.manifest.outputs):
        raise PlanDamaged(
            f"the engine takes images of {plan.image} and gives {', '.join(outputs)}, the version {image} and "
            f"{', '.join(source.manifest.outputs)}: build it again"
        )


EXECUTOR = CudaEngineExecutor
