"""The file of measured configurations of a GPU architecture: its rows are those of `tiles.json`, with times.

    {"format": 1,
     "compiler": "triton 3.6.0",
     "tiles": {"sm_90": [
       {"precision": "int8", "kernel": 3, …, "stages": 3, "microseconds": 41.2},
       …]}}

A file of another format, compiler or architecture is not used.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from export.kernels.tiles import Measured, ProblemKey, Tile, TimedTile
from models.files import atomic_write
from models.validation import first_error

FORMAT = 1

_Block = Literal[16, 32, 64, 128, 256]


class StoredTilesError(ValueError):
    """The file cannot be used; the message is one line with the reason."""


class _StoredPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _StoredRow(_StoredPart):
    precision: Literal["int8", "float16"]
    kernel: PositiveInt
    stride: PositiveInt
    inside: PositiveInt
    out: PositiveInt
    size: PositiveInt
    residual: bool
    batch: PositiveInt
    loads: Literal["tensor maps", "pointers"]
    rows: _Block
    columns: _Block
    depth: _Block
    warps: Literal[1, 2, 4, 8, 16]
    stages: Annotated[int, Field(ge=1, le=8)]
    microseconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _StoredTiles(_StoredPart):
    format: Literal[1]
    compiler: str
    tiles: dict[str, tuple[_StoredRow, ...]]


def read(path: Path, architecture: str, compiler: str) -> Measured:
    """The stored configurations; none if there is no file.

    Args:
        path: the file.
        architecture: such as sm_90.
        compiler: name and version of the compiler.

    Raises:
        StoredTilesError: the file is damaged, or for another architecture or compiler.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoredTilesError(f"{path.name}: cannot be read: {error.strerror}") from error
    try:
        stored = _StoredTiles.model_validate_json(content)
    except ValidationError as error:
        raise StoredTilesError(f"{path.name}: damaged: {first_error(error)}") from error
    if stored.compiler != compiler or stored.tiles.keys() != {architecture}:
        made_for = f"{', '.join(stored.tiles)} with {stored.compiler}"
        raise StoredTilesError(f"{path.name}: is for {made_for}, not for {architecture} with {compiler}")
    keys = [field.name for field in dataclasses.fields(ProblemKey)]
    return {ProblemKey(**{key: getattr(row, key) for key in keys}): _timed(row) for row in stored.tiles[architecture]}


def write(path: Path, architecture: str, compiler: str, measured: Measured) -> None:
    """Store configurations; a reader gets the old file or all of the new one.

    Raises:
        OSError: the file cannot be written.
    """
    rows = ",\n  ".join(json.dumps(_row(key, timed)) for key, timed in measured.items())
    head = f'{{"format": {FORMAT},\n "compiler": {json.dumps(compiler)},\n "tiles": {{{json.dumps(architecture)}: ['
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, f"{head}\n  {rows}]}}}}\n".encode())


def _timed(row: _StoredRow) -> TimedTile:
    tile = Tile(row.loads == "tensor maps", row.rows, row.columns, row.depth, row.warps, row.stages)
    return TimedTile(tile, row.microseconds)


def _row(key: ProblemKey, timed: TimedTile) -> dict[str, object]:
    tile = dataclasses.asdict(timed.tile)
    loads = "tensor maps" if tile.pop("tensor_maps") else "pointers"
    return {**dataclasses.asdict(key), "loads": loads, **tile, "microseconds": round(timed.microseconds, 3)}
