"""The configurations to measure for a convolution: at most `MAX_CANDIDATES`.

The first one is what the table or its rule selects. Of the block sizes below, the five largest follow of those that
give at least half of the multiprocessors a block; if they are fewer, the next larger ones complete them. Each block
size comes in two forms: with loads by tensor maps and by pointers where both can be used, otherwise with two depths of
the pipeline. Groups of channels are packed for one block size, so a grouped convolution has one candidate.
"""

from __future__ import annotations

from dataclasses import replace

from export.kernels.tiles import (
    MULTIPROCESSORS,
    KernelTarget,
    Problem,
    Tile,
    fits,
    largest_depth,
    load_bytes,
    select_tile,
    shared_bytes,
)

MAX_CANDIDATES = 11
_BLOCKS = 5

_Block = tuple[int, int, int]
"""Rows, columns and warps."""
_HALF: tuple[_Block, ...] = ((256, 128, 8), (128, 128, 8), (128, 128, 4))
_INT8: tuple[_Block, ...] = ((128, 128, 8), (128, 128, 4))
_INT8_HOPPER: tuple[_Block, ...] = ((128, 128, 4), (256, 64, 4))
_SMALLER: tuple[_Block, ...] = (
    (128, 64, 4), (64, 128, 4), (64, 64, 4), (128, 32, 4), (64, 32, 4), (32, 64, 4), (32, 32, 4)
)  # fmt: skip
"""All from the largest. For int8, tuning on an H200 chose 4 warps for each block of 128 x 128."""
_STAGES = (3, 2)
_STAGES_OF_SMALL = (4, 3)
_SMALL = 64 * 64
"""Elements up to which a block is small: its loads take longer than its products."""


def candidates(problem: Problem, wanted: KernelTarget) -> tuple[Tile, ...]:
    """The configurations, each once; the first one is what is used without a measurement."""
    first = select_tile(problem, wanted).tile
    if problem.grouped:
        return (first,)
    others = [tile for block in _blocks(problem, wanted) for tile in _forms(problem, wanted, block)]
    return tuple(dict.fromkeys((first, *others)))


def _blocks(problem: Problem, wanted: KernelTarget) -> list[_Block]:
    int8 = _INT8_HOPPER if wanted.architecture == "sm_90" else _INT8
    large = int8 if problem.key.precision == "int8" else _HALF
    usable = [block for block in (*large, *_SMALLER) if _forms(problem, wanted, block)]
    enough = MULTIPROCESSORS[wanted.architecture] // 2
    filling = [block for block in usable if _count(problem, block) >= enough][:_BLOCKS]
    too_large = [block for block in usable if _count(problem, block) < enough]
    return filling + too_large[::-1][: _BLOCKS - len(filling)]


def _count(problem: Problem, block: _Block) -> int:
    """Blocks of a launch."""
    return -(-problem.rows // block[0]) * (problem.key.out // block[1])


def _forms(problem: Problem, wanted: KernelTarget, block: _Block) -> list[Tile]:
    """A block size by tensor maps and by pointers, or with two depths of the pipeline; none if it does not fit."""
    rows, columns, warps = block
    depths = _STAGES_OF_SMALL if rows * columns <= _SMALL else _STAGES
    tiles = [Tile(False, rows, columns, largest_depth(problem), warps, stages) for stages in depths]
    fitting = [
        tile for tile in tiles if fits(tile, problem, wanted) and load_bytes(tile, problem) <= shared_bytes(wanted)
    ]
    if fitting and wanted.tensor_maps and problem.may_use_maps:
        return [replace(fitting[0], tensor_maps=True), fitting[0]]
    return fitting
