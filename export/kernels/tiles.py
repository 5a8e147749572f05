"""Configurations of convolutions: measured on a GPU of the architecture, from the table, or by a rule.

The table ships with the project (`tiles.json`). A row is the choice of tuning on an H200 for one shape, precision and
batch size; a batch size between a half and twice that of a row takes the row, and every other one takes the rule.
Measurements are for one batch size; `measuring` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from export.errors import UnsupportedDevice
from models.runtime.cuda_engine.plan import Origin

TABLE = Path(__file__).with_name("tiles.json")

SHARED_BYTES = {
    "sm_80": 163 * 1024,
    "sm_86": 99 * 1024,
    "sm_89": 99 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
}
"""Shared memory per block."""
MULTIPROCESSORS = {"sm_80": 108, "sm_86": 72, "sm_89": 58, "sm_90": 132, "sm_100": 148, "sm_120": 170}
"""Of the A100, A10, L4, H100, B200 and GeForce RTX 5090. A launch with fewer blocks leaves some of them idle."""
_RESERVE = 8 * 1024
"""Shared memory for the epilogue and barriers."""
_TENSOR_MAPS = ("sm_90",)
_MAX_ELEMENTS = 2**20
"""Largest block of Triton's language, in elements."""
_SHAPES = ((128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 32))

INTERPRETER = "interpreter"


@dataclass(frozen=True)
class KernelTarget:
    """The GPU architecture to build for, such as sm_90; or Triton's interpreter, with large blocks."""

    architecture: str
    tensor_maps: bool

    @property
    def is_interpreter(self) -> bool:
        return self.architecture == INTERPRETER


@dataclass(frozen=True)
class Tile:
    """Configuration of a convolution's kernel."""

    tensor_maps: bool
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class ProblemKey:
    """The convolutions that a row of the table, or a measurement, is for."""

    precision: str
    """int8, or float16 for both half precisions."""
    kernel: int
    """Height and width of the window; for prepared pixels, of the network's first convolution."""
    stride: int
    inside: int
    """Channels of the input, and of the output."""
    out: int
    size: int
    """Height of the input."""
    residual: bool
    batch: int


@dataclass(frozen=True)
class Problem:
    """The convolution to choose for."""

    key: ProblemKey
    rows: int
    """Pixels of the output of a batch."""
    span: int
    """Products per tap; the depth of a block divides it."""
    taps: int
    grouped: bool
    pixels: bool
    """Whether the input is prepared pixels."""

    @property
    def element_bytes(self) -> int:
        return 1 if self.key.precision == "int8" else 2

    @property
    def may_use_maps(self) -> bool:
        """Whether tiles of the input are rectangles."""
        return self.key.stride == 1 and not self.pixels


@dataclass(frozen=True)
class TimedTile:
    """A configuration with its measured time."""

    tile: Tile
    microseconds: float


@dataclass(frozen=True)
class SelectedTile:
    """The configuration of a convolution, and where it comes from."""

    tile: Tile
    origin: Origin
    microseconds: float | None = None


Measured = Mapping[ProblemKey, TimedTile]
"""The fastest configurations on a GPU of the architecture."""
NONE_MEASURED: Measured = MappingProxyType({})


def target(architecture: str) -> KernelTarget:
    """The target of a name.

    Raises:
        UnsupportedDevice: there are no kernels for it.
    """
    if architecture not in SHARED_BYTES:
        known = ", ".join(SHARED_BYTES)
        raise UnsupportedDevice(f"there are no kernels for {architecture}, only for {known}: use another runtime")
    return KernelTarget(architecture, architecture in _TENSOR_MAPS)


def select_tile(problem: Problem, wanted: KernelTarget, measured: Measured = NONE_MEASURED) -> SelectedTile:
    """The configuration of a convolution."""
    if wanted.is_interpreter:
        return SelectedTile(_interpreted(problem, wanted), "rule")
    timed = measured.get(problem.key)
    if timed is not None and fits(timed.tile, problem, wanted):
        return SelectedTile(timed.tile, "measured", timed.microseconds)
    listed = _listed(problem, wanted)
    return SelectedTile(_rule(problem, wanted), "rule") if listed is None else SelectedTile(listed, "table")


def fits(tile: Tile, problem: Problem, wanted: KernelTarget) -> bool:
    """Whether a kernel of this configuration computes a convolution."""
    divides = problem.key.out % tile.columns == 0 and problem.span % tile.depth == 0
    may_use_maps = wanted.tensor_maps and problem.may_use_maps
    return divides and not problem.grouped and (may_use_maps or not tile.tensor_maps)


def load_bytes(tile: Tile, problem: Problem) -> int:
    """Shared memory that the loads of a block take at once."""
    return (tile.rows + tile.columns) * tile.depth * problem.element_bytes * tile.stages


def shared_bytes(wanted: KernelTarget) -> int:
    """Shared memory of a block that loads may take."""
    return SHARED_BYTES[wanted.architecture] - _RESERVE


def blocks_of_columns(channels: int) -> int:
    """The largest block of columns that a rule may choose for an output; groups are packed for it."""
    return next(size for size in (128, 64, 32) if channels % size == 0)


@cache
def _table() -> dict[str, list[dict[str, int | str]]]:
    found: dict[str, list[dict[str, int | str]]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def _listed(problem: Problem, wanted: KernelTarget) -> Tile | None:
    """The row for a shape, if its blocks divide the shape."""
    if problem.grouped:
        return None
    batch = problem.key.batch
    keys = ("precision", "kernel", "stride", "inside", "out", "size", "residual")
    rows = [
        row
        for row in _table().get(wanted.architecture, [])
        if all(row[key] == getattr(problem.key, key) for key in keys)
        and int(row["batch"]) <= 2 * batch
        and batch <= 2 * int(row["batch"])
    ]
    if not rows:
        return None
    row = min(rows, key=lambda each: abs(int(each["batch"]) - batch))
    depth = min(int(row["depth"]), largest_depth(problem))
    maps = row["loads"] == "tensor maps" and problem.may_use_maps and wanted.tensor_maps
    return Tile(maps, int(row["rows"]), int(row["columns"]), depth, int(row["warps"]), int(row["stages"]))


def _rule(problem: Problem, wanted: KernelTarget) -> Tile:
    out = problem.key.out
    shapes = [shape for shape in _SHAPES if out % shape[1] == 0]
    enough = MULTIPROCESSORS[wanted.architecture]
    filled = [(rows, columns) for rows, columns in shapes if -(-problem.rows // rows) * (out // columns) >= enough]
    rows, columns = filled[0] if filled else shapes[-1]
    depth = largest_depth(problem)
    iterations = problem.taps * problem.span // depth
    stages = 2 if iterations <= 2 else 3
    large = rows * columns >= 128 * 128
    warps = 8 if large and (problem.key.precision != "int8" or wanted.architecture != "sm_90") else 4
    tile = Tile(wanted.tensor_maps and problem.may_use_maps, rows, columns, depth, warps, stages)
    while tile.stages > 1 and load_bytes(tile, problem) > shared_bytes(wanted):
        tile = replace(tile, stages=tile.stages - 1)
    return tile


def largest_depth(problem: Problem) -> int:
    """The largest depth of a block that divides the products of a tap."""
    largest = 128 if problem.key.precision == "int8" else 64
    return next(size for size in (largest, 64, 32) if problem.span % size == 0)


def _interpreted(problem: Problem, wanted: KernelTarget) -> Tile:
    """One block for as much as fits: the interpreter's time is per operation, not per element."""
    columns = _power_of_two_in(problem.key.out, 512)
    depth = _power_of_two_in(problem.span, 512)
    rows = 16
    while rows < problem.rows and 2 * rows * max(columns, depth) <= _MAX_ELEMENTS:
        rows *= 2
    return Tile(wanted.tensor_maps and problem.may_use_maps, rows, columns, depth, 4, 2)


def _power_of_two_in(size: int, most: int) -> int:
    """The largest power of two that divides a size."""
    return min(size & -size, most)
