"""A small CUDA engine whose kernels are no real code: two launches over one activation, one with a tensor map."""

from __future__ import annotations

from models.runtime.cuda_engine.file import CudaEngine, pack
from models.runtime.cuda_engine.plan import (
    Argument,
    Binary,
    Buffer,
    Kernel,
    Launch,
    LaunchPlan,
    Layer,
    MapArgument,
    Output,
    Parameter,
    Pointer,
    Program,
    Region,
    Scalar,
    TensorMap,
)

WEIGHTS = bytes(range(256)) * 2
CUBINS = [b"\x7fELF first", b"\x7fELF second, longer"]
IMAGE = (8, 4, 3)
CLASSES = 5

_FIRST = ("x:pointer", "y:pointer", "count:int32", "factor:float32", "hidden.0:scratch", "hidden.1:scratch")
_SECOND = ("x:tensor_map", "x.shape.0:int32", "x.stride.0:int64", "w:pointer", "y:pointer", "hidden.0:scratch")


def _kernel(name: str, cubin: int, parameters: tuple[str, ...]) -> Kernel:
    pairs = [text.split(":") for text in parameters]
    return Kernel(
        name=name,
        source=name,
        constants={"BLOCK": 64, "KIND": "relu", "residual": None},
        warps=4,
        stages=2,
        parameters=tuple(Parameter.model_validate({"name": part, "kind": kind, "type": kind}) for part, kind in pairs),
        binary=Binary(cubin=cubin, function=name, shared_bytes=49_664, registers=64, stack_bytes=0),
    )


def _program(batch: int) -> Program:
    values = batch * 128
    address = Pointer(buffer=3, offset=0, bytes=values, access="read")
    first: tuple[Argument, ...] = (
        Pointer(buffer=0, offset=0, bytes=batch * 96, access="read"),
        Pointer(buffer=3, offset=0, bytes=values, access="write"),
        Scalar(value=batch),
        Scalar(value=0.5),
        Scalar(value=0),
        Scalar(value=0),
    )
    second: tuple[Argument, ...] = (
        MapArgument(tensor_map=0),
        Scalar(value=batch),
        Scalar(value=128),
        Pointer(buffer=1, offset=256, bytes=256, access="read"),
        Pointer(buffer=2, offset=0, bytes=batch * CLASSES * 4, access="write"),
        Scalar(value=0),
    )
    return Program(
        batch=batch,
        arena_bytes=values + 256,
        buffers=(
            Buffer(name="images", kind="images", bytes=batch * 96, offset=0, first=0, last=0),
            Buffer(name="weights", kind="weights", bytes=len(WEIGHTS), offset=0, first=0, last=1),
            Buffer(name="logits", kind="output", bytes=batch * CLASSES * 4, offset=0, first=1, last=1),
            Buffer(name="values", kind="activation", bytes=values, offset=256, zeroed=True, first=0, last=1),
        ),
        tensor_maps=(
            TensorMap(
                address=address, element="uint8", shape=(128, batch), strides=(128,), box=(64, batch), swizzle=64
            ),
        ),
        launches=(
            Launch(kernel=0, layer=0, grid=(batch, 1, 1), arguments=first),
            Launch(kernel=1, layer=1, grid=(1, 2, 1), arguments=second),
        ),
    )


def _layer(name: str) -> Layer:
    return Layer(
        name=name, kind="convolution 1x1", nodes=(name,), bytes_per_image=224, weight_bytes=256, multiply_adds=640
    )


def small_plan(batches: tuple[int, ...] = (1, 8)) -> LaunchPlan:
    """A valid plan; its regions are set by `pack`."""
    return LaunchPlan(
        architecture="sm_90",
        precision="int8",
        compiler="triton 0.0",
        onnx_sha256="ab" * 32,
        image=IMAGE,
        outputs=(Output(name="logits", row=(CLASSES,)),),
        weights=Region(offset=0, bytes=len(WEIGHTS)),
        cubins=(),
        kernels=(_kernel("first", 0, _FIRST), _kernel("second", 1, _SECOND)),
        layers=(_layer("stem"), _layer("head")),
        programs=tuple(_program(batch) for batch in batches),
    )


def small_engine(batches: tuple[int, ...] = (1, 8)) -> CudaEngine:
    """The plan with its data."""
    return pack(small_plan(batches), WEIGHTS, CUBINS)
