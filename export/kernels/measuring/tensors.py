"""Inputs of a convolution that is measured, and the comparison of its outputs. Arrays are NumPy's; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from export.kernels.network import Array, Convolution
from export.kernels.packing.context import PIXELS, Context
from export.kernels.packing.convolutions import reads_pixels
from export.kernels.packing.layout import Layout
from export.kernels.packing.weights import as_bytes
from models.imaging.preprocess import UInt8Array

_PATTERN = np.random.default_rng(25).integers(-127, 128, 1_000_003).astype(np.int8)
"""Random values that are repeated; their number is prime, so images and rows differ."""
_STEP = 1 / 64
"""Value of one step in half precision: all values are exact, and sums stay far from the largest number."""
_BOUNDS = {"fp16": 2.0**-8, "bf16": 2.0**-5}
"""Largest difference of two orders of summation, relative to the largest value: four steps of rounding."""


def inputs(context: Context, conv: Convolution) -> dict[str, UInt8Array]:
    """Random content of each tensor that a convolution reads, by name. Zeros around the images stay zeros."""
    if reads_pixels(context, conv):
        size = context.pixels.bytes(context.batch)
        found = {PIXELS: _elements(context.pixels.element, size // context.pixels.element_bytes).view(np.uint8)}
    else:
        found = {conv.source: _images(context.layouts[conv.source], context.batch)}
    if conv.residual is not None:
        found[conv.residual] = _images(context.layouts[conv.residual], context.batch)
    return found


def agree(
    context: Context, conv: Convolution, first: Mapping[str, UInt8Array], other: Mapping[str, UInt8Array]
) -> bool:
    """Whether two outputs of a convolution, bytes by name of the form, are those of the same arithmetic.

    Sums of integers are exact, so all bytes must be equal. In half precision the order of a sum may differ.
    """
    for name, expected in first.items():
        if np.array_equal(expected, other[name]):
            continue
        if conv.is_int8 or not _close(context.layouts[name].element, expected, other[name]):
            return False
    return True


def _images(layout: Layout, batch: int) -> UInt8Array:
    """A tensor of random images between zeros."""
    shape = layout.shape
    images = _elements(layout.element, batch * shape.size).reshape(batch, shape.height, shape.width, shape.channels)
    whole = np.zeros(layout.bytes(batch) // layout.element_bytes, images.dtype)
    start = layout.margin * layout.channels
    planes = whole[start : start + batch * layout.plane * layout.channels].reshape(
        batch, shape.height + layout.padding, layout.pitch, layout.channels
    )
    planes[:, : shape.height, : shape.width, : shape.channels] = images
    return whole.view(np.uint8)


def _elements(element: str, count: int) -> Array:
    """Random elements: i8, or the bits of fp16 or bf16."""
    values: Array = _PATTERN if element == "i8" else _PATTERN.astype(np.float32) * _STEP
    content = np.frombuffer(as_bytes(values, element), np.int8 if element == "i8" else np.uint16)
    return np.resize(content, count)


def _close(element: str, expected: UInt8Array, found: UInt8Array) -> bool:
    one, other = _values(element, expected), _values(element, found)
    bound = 1.0 if element == "i8" else _BOUNDS[element] * float(np.abs(one).max())
    return bool((np.abs(one - other) <= bound).all())  # not for what is no number


def _values(element: str, content: UInt8Array) -> np.ndarray[Any, np.dtype[np.float32]]:
    if element == "bf16":
        return (content.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return content.view(np.int8 if element == "i8" else np.float16).astype(np.float32)
