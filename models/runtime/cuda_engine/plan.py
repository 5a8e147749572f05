"""The launch plan of a CUDA engine.

A plan lists, per batch size, the kernels to launch in order. Each launch has a grid and one argument per parameter of
the compiled kernel, so a runtime launches it as it is. Pointers refer to buffers, and each buffer has a size, an
alignment and the launches between which it holds a value.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt

from models.artifact.manifest import SHA256

VERSION = 2
"""Version of the format. An engine of another version is built again."""

ALIGNMENT = 256
"""Alignment in bytes of every buffer, and of the sections of the file."""

TENSOR_MAP_BYTES = 128
"""Size of an encoded tensor map, a `CUtensorMap`."""

INTERPRETER = "interpreter"
"""Architecture of plans that Triton's interpreter runs, in tests."""

Precision = Literal["float16", "bfloat16", "int8"]
BufferKind = Literal["images", "output", "weights", "activation"]
ParameterKind = Literal["pointer", "int32", "int64", "float32", "tensor_map", "scratch"]
"""`scratch` is a pointer that the compiler appends and the kernel does not use: its argument is the value 0."""
Origin = Literal["table", "rule", "measured"]
"""The table that ships with the project, its rule for other shapes, or a measurement on a GPU of the architecture."""
ElementType = Literal["uint8", "float16", "bfloat16", "float32"]
"""Element types of tensor maps; int8 is copied as uint8."""

PARAMETER_BYTES: dict[ParameterKind, int] = {
    "pointer": 8,
    "int32": 4,
    "int64": 8,
    "float32": 4,
    "tensor_map": TENSOR_MAP_BYTES,
    "scratch": 8,
}
ELEMENT_BYTES: dict[ElementType, int] = {"uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4}

Index = NonNegativeInt
SmallText = Annotated[str, Field(min_length=1, max_length=400)]


class _Part(BaseModel):
    # An engine is never guessed: unknown fields and other types are refused.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Region(_Part):
    """A part of the file's data section, in bytes from its start."""

    offset: NonNegativeInt
    bytes: PositiveInt


class Parameter(_Part):
    """A parameter of a compiled kernel."""

    name: SmallText
    """Name in the source. The shape and the strides behind a tensor map are `x.shape.0`, `x.stride.0`, …"""
    kind: ParameterKind
    type: SmallText
    """Type in the compiler's notation, such as `*fp16`, `i32` or `tensordesc<i8[128, 64]>`."""


class Binary(_Part):
    """The compiled form of a kernel."""

    cubin: Index
    """Number in `LaunchPlan.cubins`."""
    function: SmallText
    """Name of the function in the cubin."""
    shared_bytes: NonNegativeInt
    """Dynamic shared memory. Above 48 KB the runtime must allow it with cuFuncSetAttribute."""
    registers: NonNegativeInt
    """Registers per thread, for the report."""
    stack_bytes: NonNegativeInt
    """Local memory per thread, where spilled registers go, for the report."""


class Kernel(_Part):
    """A function of the sources with its compile-time constants."""

    name: SmallText
    """Name for people, such as `convolution_tma 128x64x64`."""
    source: SmallText
    """Name of the function in the sources."""
    constants: dict[str, int | str | None]
    """Compile-time constants by name; None for an argument that the kernel is compiled without."""
    warps: Annotated[int, Field(ge=1, le=32)]
    """The block has 32 threads per warp."""
    stages: Annotated[int, Field(ge=1, le=8)]
    """Depth of the software pipeline that it was compiled with."""
    parameters: tuple[Parameter, ...]
    """Parameters of the compiled function, in order, with those that the compiler appends."""
    binary: Binary | None
    """None in a plan that is not compiled."""


class Buffer(_Part):
    """Memory on the device. All buffers are aligned to `ALIGNMENT`."""

    name: SmallText
    """`images` and the names of the outputs for these kinds; otherwise for people."""
    kind: BufferKind
    bytes: PositiveInt
    offset: NonNegativeInt
    """Place of an activation in the arena; 0 for other kinds, which have memory of their own."""
    zeroed: bool = False
    """Whether the runtime fills it with zeros once, before the first batch. It shares its memory with none."""
    first: Index
    """The first launch that may use it."""
    last: Index
    """The last launch that may use it."""


class Pointer(_Part):
    """Address of a part of a buffer. The kernel touches no byte outside this part."""

    buffer: Index
    """Number in `Program.buffers`."""
    offset: NonNegativeInt
    bytes: PositiveInt
    access: Literal["read", "write", "update"]
    """`update` reads and writes."""


class Scalar(_Part):
    """A number, converted to the type of its parameter."""

    value: int | FiniteFloat


class MapArgument(_Part):
    """A tensor map, passed by value."""

    tensor_map: Index
    """Number in `Program.tensor_maps`."""


Argument = Pointer | Scalar | MapArgument


class TensorMap(_Part):
    """The arguments of cuTensorMapEncodeTiled; sizes of dimensions are listed from the innermost one.

    Element strides are 1, there is no interleave, L2 promotion is 128 bytes, and elements out of bounds are zero.
    """

    address: Pointer
    element: ElementType
    shape: tuple[PositiveInt, ...]
    strides: tuple[PositiveInt, ...]
    """In bytes, for all dimensions but the innermost one."""
    box: tuple[PositiveInt, ...]
    swizzle: Literal[0, 32, 64, 128]
    """In bytes; 0 for none."""


class TileOrigin(_Part):
    """Where the configuration of a convolution's kernel comes from, for the report."""

    origin: Origin
    microseconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Measured time of the launch alone."""


class Launch(_Part):
    """One kernel of a program."""

    kernel: Index
    """Number in `LaunchPlan.kernels`."""
    layer: Index
    """Number in `LaunchPlan.layers`."""
    grid: tuple[PositiveInt, PositiveInt, PositiveInt]
    arguments: tuple[Argument, ...]
    """One per parameter of the kernel."""
    tile_origin: TileOrigin | None = None
    """None for kernels of other layers."""


class Program(_Part):
    """The launches for one batch size. They run in order on one stream, for exactly this number of images."""

    batch: PositiveInt
    arena_bytes: NonNegativeInt
    """Memory for all activations."""
    buffers: tuple[Buffer, ...]
    tensor_maps: tuple[TensorMap, ...]
    launches: tuple[Launch, ...]


class Output(_Part):
    """An output, float32 [batch, *row]."""

    name: SmallText
    row: tuple[PositiveInt, ...]


class Layer(_Part):
    """A step of the network, for reports."""

    name: SmallText
    kind: SmallText
    """Such as `convolution 3x3`, `max pooling`, `head`."""
    nodes: tuple[str, ...]
    """Nodes of the ONNX file that it computes."""
    additions: tuple[str, ...] = ()
    """Those of them that are residual additions; they are inside a convolution's kernel."""
    bytes_per_image: NonNegativeInt
    """Activations read and written, each once."""
    weight_bytes: NonNegativeInt
    multiply_adds: NonNegativeInt
    """Per image."""


class LaunchPlan(_Part):
    """Everything but the kernels' code and the weights."""

    architecture: Annotated[str, Field(pattern=r"^(sm_[1-9][0-9]{1,2}|interpreter)$")]
    """GPUs that can run it: sm_90 needs compute capability 9.0."""
    precision: Precision
    compiler: SmallText
    """Name and version of the compiler."""
    onnx_sha256: Annotated[str, Field(pattern=SHA256)]
    """The ONNX file that it was built from."""
    image: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Height, width and channels of the images, uint8 [batch, height, width, channels]."""
    outputs: tuple[Output, ...]
    """In the order of the manifest."""
    weights: Region
    """Copied to the device as a whole; all programs share it."""
    cubins: tuple[Region, ...]
    kernels: tuple[Kernel, ...]
    layers: tuple[Layer, ...]
    programs: tuple[Program, ...]
    """Ascending by batch size."""

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes, ascending."""
        return tuple(program.batch for program in self.programs)
