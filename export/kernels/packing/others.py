"""Launches of everything but convolutions."""

from __future__ import annotations

import numpy as np

from export.kernels.network import Classifier, FeatureMap, Mean, Window
from export.kernels.packing.context import PIXELS, Context, stored
from export.kernels.packing.launches import IMAGES, Call, Given, Number, Ref, call
from export.kernels.packing.pixels import mean_and_scale
from export.kernels.packing.weights import padded_vector

COUNTERS = "counters of the head"

_HEAD_ROWS, _HEAD_COLUMNS, _HEAD_DEPTH = 16, 32, 64
_SOFTMAX_COLUMNS = 256
"""Classes that the softmax reads at once, at most."""
_WINDOW_BYTES = 2048
"""Of the pixels of a block of a pool: 16 bytes, the largest load, for each of 128 threads."""
_INTERPRETED_ELEMENTS = 2**19


def prepare(context: Context, layer: int) -> Call:
    """The launch that prepares the pixels."""
    image, layout = context.network.image, context.pixels
    mean, scale = mean_and_scale(context.network.pixels)
    pixels = context.batch * layout.rows * layout.pitch
    rows = _rows(context, pixels, 128, layout.channels)
    size = layout.bytes(context.batch)
    given: dict[str, Given] = {
        "images": Ref(IMAGES, "u8", 0, context.batch * image.size, "read"),
        "mean": context.constant(padded_vector(mean, layout.channels)),
        "scale": context.constant(padded_vector(scale, layout.channels)),
        "y": Ref(PIXELS, layout.element, 0, size, "write"),
        "T": Number(pixels),
        "H": Number(image.height),
        "W": Number(image.width),
        "C": Number(image.channels),
        "PH": Number(layout.rows),
        "PW": Number(layout.pitch),
        "pad": Number(layout.padding),
    }
    constants = {"CP": layout.channels, "BP": rows}
    return call("prepare_pixels", given, constants, (-(-pixels // rows), 1, 1), layer=layer, warps=4)


def window(context: Context, step: Window, layer: int) -> Call:
    """The launch of a pool over windows."""
    source, shape = context.layouts[step.source], step.forms[0].shape
    result = stored(context, step.forms)
    pixels = context.batch * shape.height * shape.width
    columns = next(size for size in (128, 64, 32) if source.channels % size == 0)
    rows = _rows(context, pixels, _WINDOW_BYTES // source.element_bytes // columns, columns)
    before = context.form(step.source).shape
    numbers = {
        "M": pixels,
        "PQ": shape.height * shape.width,
        "Q": shape.width,
        "H": before.height,
        "W": before.width,
        "CB": source.channels // columns,
        "xI": source.plane,
        "xW": source.pitch,
        **result.strides(),
    }
    given: dict[str, Given] = {
        "x": context.tensor(step.source, "read"),
        **result.arguments,
        "factor": Number(float(context.scale(step.source) / result.scale)),
        **{name: Number(value) for name, value in numbers.items()},
    }
    constants = {
        "SIZE": step.kernel,
        "STRIDE": step.stride,
        "PAD": step.padding,
        "IS_MAX": int(step.is_max),
        "COUNTS_PAD": int(step.counts_padding),
        **result.flags,
        "BM": rows,
        "BC": columns,
    }
    grid = (-(-pixels // rows), source.channels // columns, 1)
    return call("pool_windows", given, constants, grid, layer=layer, warps=4)


def mean(context: Context, step: Mean, layer: int) -> Call:
    """The launch of the mean over all pixels."""
    source = context.layouts[step.source]
    shape = source.shape
    pixels = shape.height * shape.width
    columns = 64 if source.channels % 64 == 0 else 32
    size = context.batch * shape.channels * 4
    given = {
        "x": context.tensor(step.source, "read"),
        "y": Ref(step.output, "fp32", 0, size, "write"),
        "factor": Number(float(context.scale(step.source) / pixels)),
        **_places(context, step.source, columns),
    }
    constants = {"BR": min(64, _power_of_two(pixels)), "BC": columns}
    grid = (context.batch, source.channels // columns, 1)
    return call("pool_images", given, constants, grid, layer=layer, warps=4)


def feature_map(context: Context, step: FeatureMap, layer: int) -> Call:
    """The launch that writes a feature map as an output."""
    source = context.layouts[step.source]
    shape = source.shape
    pixels = shape.height * shape.width
    rows, columns = min(64, _power_of_two(pixels)), 32
    given = {
        "x": context.tensor(step.source, "read"),
        "y": Ref(step.output, "fp32", 0, context.batch * shape.size * 4, "write"),
        "factor": Number(float(context.scale(step.source))),
        **_places(context, step.source, columns),
    }
    grid = (context.batch, -(-pixels // rows), source.channels // columns)
    constants = {"BR": rows, "BC": columns}
    return call("write_feature_map", given, constants, grid, layer=layer, warps=4)


def classifier(context: Context, step: Classifier, layer: int) -> Call:
    """The launch of the head."""
    classes, features = step.weight.shape
    rows, columns, depth = _HEAD_ROWS, _HEAD_COLUMNS, _HEAD_DEPTH
    blocks, chunks = -(-classes // columns), -(-features // depth)
    weight = np.zeros((blocks * columns, chunks * depth), np.float32)
    weight[:classes, :features] = step.weight
    size = context.batch * classes * 4
    groups = -(-context.batch // rows)
    given: dict[str, Given] = {
        "features": Ref(step.source, "fp32", 0, context.batch * features * 4, "read"),
        "w": context.constant(weight),
        "bias": context.constant(padded_vector(step.bias, blocks * columns)),
        "logits": Ref(step.logits, "fp32", 0, size, "update"),
        "probabilities": Ref(step.probabilities, "fp32", 0, size, "write"),
        "done": Ref(COUNTERS, "i32", 0, counter_bytes(context.batch), "update"),
        "temperature": Number(float(step.temperature)),
        "M": Number(context.batch),
        "N": Number(classes),
        "F": Number(features),
        "KC": Number(chunks),
        "NB": Number(blocks),
    }
    wide = min(_SOFTMAX_COLUMNS, _power_of_two(classes))
    constants = {"BM": rows, "BN": columns, "BK": depth, "BW": wide}
    return call("classify", given, constants, (groups * blocks, 1, 1), layer=layer, warps=4)


def counter_bytes(batch: int) -> int:
    """Size of the counters of the head: one per row of blocks."""
    return -(-batch // _HEAD_ROWS) * 4


def _places(context: Context, source: str, columns: int) -> dict[str, Given]:
    layout = context.layouts[source]
    numbers = {
        "HW": layout.shape.height * layout.shape.width,
        "W": layout.shape.width,
        "CB": layout.channels // columns,
        "F": layout.shape.channels,
        "xI": layout.plane,
        "xW": layout.pitch,
    }
    return {name: Number(value) for name, value in numbers.items()}


def _rows(context: Context, pixels: int, usual: int, columns: int) -> int:
    """Pixels of a block: as many as fit in the interpreter, where only the number of operations counts."""
    return min(_power_of_two(pixels), _INTERPRETED_ELEMENTS // columns) if context.target.is_interpreter else usual


def _power_of_two(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()
