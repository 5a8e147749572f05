"""The rules of a launch plan: no launch can touch memory that the plan does not give it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from models.runtime.cuda_engine.plan import (
    ALIGNMENT,
    ELEMENT_BYTES,
    INTERPRETER,
    Argument,
    Buffer,
    Launch,
    LaunchPlan,
    MapArgument,
    Parameter,
    Pointer,
    Program,
    Region,
    Scalar,
    TensorMap,
)

MAX_SHARED_BYTES = 232_448
"""Shared memory of a block on the largest GPUs (compute capability 9.0: 227 KB)."""

_MAX_GRID = (2**31 - 1, 65_535, 65_535)
_MAX_BYTES = 2**40
_MAX_BOX = 256
POINTER_ALIGNMENT = 16
"""Alignment in bytes of every pointer and of the rows of tensor maps."""

_RANKS = range(1, 6)
_LIMITS = {"int32": range(-(2**31), 2**31), "int64": range(-(2**63), 2**63), "scratch": range(1)}
_FLOAT32_MAX = 3.4028235e38


class BadPlan(ValueError):
    """A plan breaks a rule; the message names the place."""


def check(plan: LaunchPlan, data_bytes: int) -> None:
    """Check a plan, whose data section has this many bytes.

    Raises:
        BadPlan: the plan breaks a rule.
    """
    for region in (plan.weights, *plan.cubins):
        _check_region(region, data_bytes)
    for kernel in plan.kernels:
        binary = kernel.binary
        _require(binary is None or binary.cubin < len(plan.cubins), f"kernel {kernel.name}: there is no such cubin")
        _require(binary is None or binary.shared_bytes <= MAX_SHARED_BYTES, f"kernel {kernel.name}: too much memory")
    names = [output.name for output in plan.outputs]
    _require(len(set(names)) == len(names) > 0, "outputs: no names, or a name twice")
    batches = plan.batches
    _require(len(batches) > 0 and list(batches) == sorted(set(batches)), "programs: batch sizes do not ascend")
    for program in plan.programs:
        try:
            _check_program(plan, program)
        except BadPlan as error:
            raise BadPlan(f"batch size {program.batch}: {error}") from None


def overlaps(buffers: Sequence[Buffer]) -> Iterator[tuple[Buffer, Buffer]]:
    """Pairs of activations that share memory while both hold values."""
    in_arena = [buffer for buffer in buffers if buffer.kind == "activation"]
    for one, other in combinations(in_arena, 2):
        share_memory = one.offset < other.offset + other.bytes and other.offset < one.offset + one.bytes
        share_time = one.first <= other.last and other.first <= one.last
        if share_memory and (share_time or one.zeroed or other.zeroed):
            yield one, other


def _check_program(plan: LaunchPlan, program: Program) -> None:
    _require(len(program.launches) > 0, "no launch")
    for buffer in program.buffers:
        _check_buffer(plan, program, buffer)
    expected = ["images", "weights", *(output.name for output in plan.outputs)]
    fixed = [buffer.name for buffer in program.buffers if buffer.kind != "activation"]
    _require(sorted(fixed) == sorted(expected), "buffers: not the images, the weights and the outputs")
    for one, other in overlaps(program.buffers):
        raise BadPlan(f"buffers {one.name} and {other.name} share memory")
    for number, tensor_map in enumerate(program.tensor_maps):
        _check_map(program, tensor_map, f"tensor map {number}", plan.architecture == INTERPRETER)
    written = set()
    for number, launch in enumerate(program.launches):
        _check_launch(plan, program, launch, number)
        written |= {pointer.buffer for pointer in _pointers(program, launch) if pointer.access != "read"}
    for index, buffer in enumerate(program.buffers):
        _require(buffer.kind != "output" or index in written, f"output {buffer.name} is not written")


def _check_buffer(plan: LaunchPlan, program: Program, buffer: Buffer) -> None:
    where = f"buffer {buffer.name}"
    rows = {output.name: output.row for output in plan.outputs}
    _require(buffer.bytes <= _MAX_BYTES, f"{where}: too large")
    _require(buffer.first <= buffer.last < len(program.launches), f"{where}: lives beyond the last launch")
    if buffer.kind == "activation":
        _require(buffer.offset % ALIGNMENT == 0, f"{where}: not aligned")
        _require(buffer.offset + buffer.bytes <= program.arena_bytes <= _MAX_BYTES, f"{where}: outside the arena")
        return
    _require(buffer.offset == 0 and not buffer.zeroed, f"{where}: is no activation")
    if buffer.kind == "output":
        _require(buffer.name in rows, f"{where}: is no output")
        expected = program.batch * math.prod(rows[buffer.name]) * 4
    elif buffer.kind == "images":
        expected = program.batch * math.prod(plan.image)
    else:
        expected = plan.weights.bytes
    _require(buffer.bytes == expected, f"{where}: has {buffer.bytes} bytes, not {expected}")


def _check_map(program: Program, tensor_map: TensorMap, where: str, interpreted: bool) -> None:
    rank = len(tensor_map.shape)
    _require(rank in _RANKS, f"{where}: rank {rank}")
    _require(len(tensor_map.box) == rank == len(tensor_map.strides) + 1, f"{where}: ranks differ")
    size = ELEMENT_BYTES[tensor_map.element]
    # The interpreter has no tensor maps, and takes boxes of any size.
    _require(interpreted or all(each <= _MAX_BOX for each in tensor_map.box), f"{where}: box is too large")
    _require(all(each < 2**32 for each in tensor_map.shape), f"{where}: shape is too large")
    _require(all(each % POINTER_ALIGNMENT == 0 and each < 2**40 for each in tensor_map.strides), f"{where}: strides")
    inner = tensor_map.box[0] * size
    _require(inner % POINTER_ALIGNMENT == 0, f"{where}: rows of the box are no multiple of {POINTER_ALIGNMENT} bytes")
    _require(
        interpreted or tensor_map.swizzle == 0 or inner <= tensor_map.swizzle, f"{where}: box is wider than the swizzle"
    )
    _check_pointer(program, tensor_map.address, where)
    _require(tensor_map.address.access == "read", f"{where}: writes")
    extent = tensor_map.shape[0] * size
    for length, stride in zip(tensor_map.shape[1:], tensor_map.strides, strict=True):
        extent += (length - 1) * stride
    _require(extent <= tensor_map.address.bytes, f"{where}: {extent} bytes of {tensor_map.address.bytes}")


def _check_launch(plan: LaunchPlan, program: Program, launch: Launch, number: int) -> None:
    where = f"launch {number}"
    _require(launch.kernel < len(plan.kernels), f"{where}: there is no such kernel")
    _require(launch.layer < len(plan.layers), f"{where}: there is no such layer")
    _require(all(size <= most for size, most in zip(launch.grid, _MAX_GRID, strict=True)), f"{where}: grid")
    parameters = plan.kernels[launch.kernel].parameters
    _require(len(parameters) == len(launch.arguments), f"{where}: has {len(launch.arguments)} arguments")
    for parameter, argument in zip(parameters, launch.arguments, strict=True):
        _check_argument(program, parameter, argument, f"{where}, {parameter.name}")
    for pointer in _pointers(program, launch):
        buffer = program.buffers[pointer.buffer]
        _require(buffer.first <= number <= buffer.last, f"{where}: uses {buffer.name} outside its lifetime")
        read_only = buffer.kind in ("images", "weights")
        _require(pointer.access == "read" or not read_only, f"{where}: writes to {buffer.name}")


def _check_argument(program: Program, parameter: Parameter, argument: Argument, where: str) -> None:
    kind = parameter.kind
    if isinstance(argument, Pointer):
        _require(kind == "pointer", f"{where}: is no pointer")
        _check_pointer(program, argument, where)
    elif isinstance(argument, MapArgument):
        _require(kind == "tensor_map", f"{where}: is no tensor map")
        _require(argument.tensor_map < len(program.tensor_maps), f"{where}: there is no such tensor map")
    else:
        _check_scalar(kind, argument, where)


def _check_scalar(kind: str, argument: Scalar, where: str) -> None:
    value = argument.value
    if kind == "float32":
        _require(abs(value) <= _FLOAT32_MAX, f"{where}: is no float32")
    else:
        _require(kind in _LIMITS, f"{where}: is a number")
        _require(isinstance(value, int) and value in _LIMITS[kind], f"{where}: is no {kind}")


def _check_pointer(program: Program, pointer: Pointer, where: str) -> None:
    _require(pointer.buffer < len(program.buffers), f"{where}: there is no such buffer")
    buffer = program.buffers[pointer.buffer]
    _require(pointer.offset + pointer.bytes <= buffer.bytes, f"{where}: outside the buffer {buffer.name}")
    # Kernels are compiled for aligned pointers.
    _require(pointer.offset % POINTER_ALIGNMENT == 0, f"{where}: address is not aligned")


def _pointers(program: Program, launch: Launch) -> Iterator[Pointer]:
    for argument in launch.arguments:
        if isinstance(argument, Pointer):
            yield argument
        elif isinstance(argument, MapArgument):
            yield program.tensor_maps[argument.tensor_map].address


def _check_region(region: Region, data_bytes: int) -> None:
    _require(region.offset % ALIGNMENT == 0, "a part of the data is not aligned")
    _require(region.offset + region.bytes <= data_bytes, "a part of the data is outside the file")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise BadPlan(message)
