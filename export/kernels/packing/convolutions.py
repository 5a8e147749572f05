"""Launches of convolutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.errors import UnsupportedNetwork
from export.kernels.network import Convolution
from export.kernels.packing.context import PIXELS, Context, Stored, stored
from export.kernels.packing.launches import Call, Given, MapRef, Number, Ref, call
from export.kernels.packing.layout import CHANNEL_MULTIPLE, round_up, run_length
from export.kernels.packing.weights import matrix, padded_vector, pixel_matrix, span
from export.kernels.tiles import Problem, ProblemKey, Tile, blocks_of_columns, select_tile
from models.runtime.cuda_engine.plan import TileOrigin

_FULL_REGISTERS = 2048
"""Elements of a block per warp at which 128 registers per thread allow twice as many blocks on a multiprocessor."""


def convolution(context: Context, conv: Convolution, layer: int) -> Call:
    """The launch of a convolution.

    Raises:
        UnsupportedNetwork: no kernel computes it.
    """
    selected = select_tile(problem_of(context, conv), context.target, context.measured)
    origin = TileOrigin(origin=selected.origin, microseconds=selected.microseconds)
    return replace(convolution_with(context, conv, layer, selected.tile), tile_origin=origin)


def convolution_with(context: Context, conv: Convolution, layer: int, tile: Tile) -> Call:
    """The launch of a convolution in a configuration.

    Raises:
        UnsupportedNetwork: no kernel computes it.
    """
    of_pixels = reads_pixels(context, conv)
    columns = blocks_of_columns(round_up(conv.forms[0].shape.channels, CHANNEL_MULTIPLE))
    columns = columns if conv.groups > 1 else tile.columns
    if conv.groups > 1:  # the weights of a group are packed for these blocks
        depth = min(tile.depth, span(conv, columns))
        tile = replace(tile, columns=columns, depth=depth)
    result = stored(context, conv.forms)
    element = "i8" if conv.is_int8 else context.half
    values = pixel_matrix(conv, context.pixels.channels) if of_pixels else matrix(conv, columns)
    weight = context.constant(values, element)
    common = _common(context, conv, result)
    flags = {
        "GROUPED": int(conv.groups > 1),
        "MAP_R": int(conv.residual is not None and context.layouts[conv.residual].padding > 0),
        "MAP_Y": int(result.y is not None and result.y.padding > 0),
        "MAP_Z": int(result.z is not None and result.z.padding > 0),
        **result.flags,
        "BM": tile.rows,
        "BN": tile.columns,
        "BK": tile.depth,
    }
    if of_pixels:
        return _of_pixels(context, conv, layer, tile, weight, common, flags)
    if tile.tensor_maps:
        return _with_maps(context, conv, layer, tile, weight, values.shape, common, flags)
    return _with_pointers(context, conv, layer, tile, weight, common, flags)


def reads_pixels(context: Context, conv: Convolution) -> bool:
    """Whether the input of a convolution is prepared pixels."""
    return conv.source == context.network.pixels.form.name


def problem_of(context: Context, conv: Convolution) -> Problem:
    """The problem that a configuration is selected for."""
    of_pixels = reads_pixels(context, conv)
    shape = conv.forms[0].shape
    inside = context.network.image if of_pixels else context.layouts[conv.source].shape
    out = round_up(shape.channels, CHANNEL_MULTIPLE)
    width = run_length(conv.kernel, context.pixels.channels) if of_pixels else 0
    if not width:
        width = round_up(inside.channels, CHANNEL_MULTIPLE)
        if conv.groups > 1:
            width = span(conv, blocks_of_columns(out))
    key = ProblemKey(
        precision="int8" if conv.is_int8 else "float16",
        kernel=conv.kernel,
        stride=conv.stride,
        inside=inside.channels,
        out=out,
        size=inside.height,
        residual=conv.residual is not None,
        batch=context.batch,
    )
    return Problem(
        key=key,
        rows=context.batch * shape.height * shape.width,
        span=width,
        taps=conv.kernel if of_pixels else conv.kernel**2,
        grouped=conv.groups > 1,
        pixels=of_pixels,
    )


def _common(context: Context, conv: Convolution, result: Stored) -> dict[str, Given]:
    """Scale, bias, residual and results."""
    channels = round_up(conv.forms[0].shape.channels, CHANNEL_MULTIPLE)
    bias = conv.bias.astype(np.float64) / result.scale
    scale = None
    if conv.weight_scale is not None:
        factor = conv.weight_scale.astype(np.float64) * context.scale(conv.source) / result.scale
        scale = context.constant(padded_vector(factor.astype(np.float32), channels))
    elif result.scale != 1.0:
        factor = np.full(len(bias), 1 / result.scale)
        scale = context.constant(padded_vector(factor.astype(np.float32), channels))
    residual, step = None, None
    if conv.residual is not None:
        residual = context.tensor(conv.residual, "read")
        step = Number(context.scale(conv.residual) / result.scale)
    return {
        "scale": scale,
        "bias": context.constant(padded_vector(bias.astype(np.float32), channels)),
        "res": residual,
        **result.arguments,
        "rs": step,
    }


def _rows(context: Context, conv: Convolution) -> dict[str, int]:
    """Strides of the residual and the results, in pixels."""
    result = stored(context, conv.forms)
    residual = None if conv.residual is None else context.layouts[conv.residual]
    return {"rI": residual.plane if residual else 0, "rW": residual.pitch if residual else 0, **result.strides()}


def _registers(context: Context, conv: Convolution, tile: Tile) -> int | None:
    full = tile.rows * tile.columns == _FULL_REGISTERS * tile.warps
    return 128 if context.target.architecture == "sm_90" and conv.residual is not None and full else None


def _grid(rows: int, tile: Tile, blocks: int) -> tuple[int, int, int]:
    return -(-rows // tile.rows) * blocks, 1, 1


def _numbers(values: dict[str, int]) -> dict[str, Given]:
    return {name: Number(value) for name, value in values.items()}


def _of_pixels(
    context: Context,
    conv: Convolution,
    layer: int,
    tile: Tile,
    weight: Ref,
    common: dict[str, Given],
    flags: dict[str, int],
) -> Call:
    pixels, shape = context.pixels, conv.forms[0].shape
    if conv.groups > 1 or conv.padding != pixels.padding or pixels.pitch % conv.stride:
        raise UnsupportedNetwork(f"{conv.name}: a first convolution with groups, or beside another one")
    rows = context.batch * shape.height * shape.width
    blocks = round_up(shape.channels, CHANNEL_MULTIPLE) // tile.columns
    run = run_length(conv.kernel, pixels.channels)
    size = pixels.bytes(context.batch)
    numbers = {
        "M": rows,
        "KC": run // tile.depth,
        "XC": 0,
        "NB": blocks,
        "PQ": shape.height * shape.width,
        "Q": shape.width,
        "stride": conv.stride,
        "xI": pixels.rows * pixels.pitch // conv.stride,
        "xW": pixels.pitch // conv.stride,
        "off0": 0,
        **_rows(context, conv),
    }
    given = {"x": Ref(PIXELS, pixels.element, 0, size, "read"), "w": weight, **common, **_numbers(numbers)}
    constants = {"R": conv.kernel, "S": 1, "PIX": pixels.channels, "STRIDE": conv.stride, "GATHER": 1, **flags}
    return _call("convolution_pointer", context, conv, layer, tile, given, constants, _grid(rows, tile, blocks))


def _with_pointers(
    context: Context,
    conv: Convolution,
    layer: int,
    tile: Tile,
    weight: Ref,
    common: dict[str, Given],
    flags: dict[str, int],
) -> Call:
    source, shape = context.layouts[conv.source], conv.forms[0].shape
    rows = context.batch * shape.height * shape.width
    blocks = round_up(shape.channels, CHANNEL_MULTIPLE) // tile.columns
    width = span(conv, tile.columns)
    first = source.margin - conv.padding * (source.pitch + 1)
    gather = conv.kernel > 1 or conv.stride > 1 or source.padding > 0
    numbers = {
        "M": rows,
        "KC": width // tile.depth,
        "XC": source.channels // tile.depth,
        "NB": blocks,
        "PQ": shape.height * shape.width,
        "Q": shape.width,
        "stride": conv.stride,
        "xI": source.plane,
        "xW": source.pitch,
        "off0": first,
        **_rows(context, conv),
    }
    x = Ref(conv.source, source.element, 0, source.bytes(context.batch), "read")
    given = {"x": x, "w": weight, **common, **_numbers(numbers)}
    constants = {"R": conv.kernel, "S": conv.kernel, "PIX": 0, "STRIDE": 1, "GATHER": int(gather), **flags}
    return _call("convolution_pointer", context, conv, layer, tile, given, constants, _grid(rows, tile, blocks))


def _call(
    source: str,
    context: Context,
    conv: Convolution,
    layer: int,
    tile: Tile,
    given: dict[str, Given],
    constants: dict[str, int],
    grid: tuple[int, int, int],
) -> Call:
    return call(
        source,
        given,
        constants,
        grid,
        layer=layer,
        warps=tile.warps,
        stages=tile.stages,
        max_registers=_registers(context, conv, tile),
    )


def _with_maps(
    context: Context,
    conv: Convolution,
    layer: int,
    tile: Tile,
    weight: Ref,
    weight_shape: tuple[int, ...],
    common: dict[str, Given],
    flags: dict[str, int],
) -> Call:
    source, shape = context.layouts[conv.source], conv.forms[0].shape
    padded = source.padding > 0
    pixels = context.batch * (source.plane if padded else shape.height * shape.width)
    blocks = weight_shape[0] // tile.columns
    numbers = {
        "M": pixels,
        "KC": span(conv, tile.columns) // tile.depth,
        "NB": blocks,
        "PQ": shape.height * shape.width,
        "Q": shape.width,
        "H": shape.height,
        "xI": source.plane,
        "xW": source.pitch,
        "off0": -conv.padding * (source.pitch + 1),
        **_rows(context, conv),
    }
    size = context.batch * source.plane * source.pixel_bytes
    images = Ref(conv.source, source.element, source.start(), size, "read")
    given: dict[str, Given] = {
        "xd": MapRef(images, context.batch * source.plane, source.channels, (tile.rows, tile.depth)),
        "wd": MapRef(weight, weight_shape[0], weight_shape[1], (tile.columns, tile.depth)),
        **common,
        **_numbers(numbers),
    }
    constants = {"R": conv.kernel, "S": conv.kernel, "INT8": int(conv.is_int8), "PADDED": int(padded), **flags}
    return _call("convolution_tma", context, conv, layer, tile, given, constants, _grid(pixels, tile, blocks))
