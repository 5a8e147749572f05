"""Launches whose pointers name tensors; the planner gives these their memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.runtime.cuda_engine.plan import ElementType, TileOrigin

IMAGES = "images"
WEIGHTS = "weights"

ELEMENTS: dict[str, ElementType] = {"i8": "uint8", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Ref:
    """A pointer to a part of a tensor, with the type of its elements: i8, u8, i32, fp16, bf16 or fp32."""

    tensor: str
    element: str
    offset: int
    bytes: int
    access: Literal["read", "write", "update"]


@dataclass(frozen=True)
class MapRef:
    """A tensor map of rows of a tensor; sizes are in elements."""

    address: Ref
    rows: int
    columns: int
    box: tuple[int, int]
    """Rows and columns."""


@dataclass(frozen=True)
class Number:
    """A 32-bit number."""

    value: int | float


Given = Ref | MapRef | Number | None
"""An argument; None for one that the kernel is compiled without."""


@dataclass(frozen=True)
class KernelKey:
    """A function with everything that its code depends on."""

    source: str
    types: tuple[tuple[str, str], ...]
    """Type of each argument that is not constant, in the source's order."""
    constants: tuple[tuple[str, int | str | None], ...]
    warps: int
    stages: int
    max_registers: int | None = None

    @property
    def block(self) -> str:
        """Block sizes for people, such as 128x64x64."""
        found = dict(self.constants)
        return "x".join(str(found[name]) for name in ("BM", "BP", "BR", "BN", "BC", "BK") if name in found)


@dataclass(frozen=True)
class Call:
    """One launch."""

    kernel: KernelKey
    grid: tuple[int, int, int]
    arguments: tuple[Ref | MapRef | Number, ...]
    """Those that the kernel has, in the source's order."""
    layer: int
    tile_origin: TileOrigin | None = None
    """Where the configuration of a convolution comes from."""


def call(
    source: str,
    given: Mapping[str, Given],
    constants: Mapping[str, int],
    grid: tuple[int, int, int],
    *,
    layer: int,
    warps: int,
    stages: int = 2,
    max_registers: int | None = None,
) -> Call:
    """A launch of a function with all of its arguments, in the source's order."""
    types = tuple((name, type_of(value)) for name, value in given.items() if value is not None)
    absent: dict[str, int | str | None] = {name: None for name, value in given.items() if value is None}
    key = KernelKey(source, types, tuple((absent | dict(constants)).items()), warps, stages, max_registers)
    arguments = tuple(value for value in given.values() if value is not None)
    return Call(key, grid, arguments, layer)


def type_of(value: Ref | MapRef | Number) -> str:
    """The type of an argument in Triton's notation."""
    if isinstance(value, Ref):
        return f"*{value.element}"
    if isinstance(value, MapRef):
        return f"tensordesc<{value.address.element}[{value.box[0]}, {value.box[1]}]>"
    return "fp32" if isinstance(value.value, float) else "i32"
