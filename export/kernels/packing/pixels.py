"""The arithmetic on pixels as a mean and a scale, from the table of what it makes of each byte."""

from __future__ import annotations

import numpy as np

from export.errors import UnsupportedNetwork
from export.kernels.network import Float32Array, Pixels

_NEIGHBOURS = 64
"""Values of the scale to try on each side, in units of the last place."""
_TOLERANCE = 1e-5
"""Largest error in half precision, relative to the largest value."""


def mean_and_scale(pixels: Pixels) -> tuple[Float32Array, Float32Array]:
    """Values, float32 [channels] each, with which (x - mean) * scale in float32 gives the prepared pixels.

    Rounded pixels are the same integers for each byte.

    Raises:
        UnsupportedNetwork: the arithmetic is none of this form.
    """
    step = pixels.form.scale
    pairs = [_fit(pixels.values[:, channel], step) for channel in range(pixels.values.shape[1])]
    means, scales = zip(*pairs, strict=True)
    return np.asarray(means, np.float32), np.asarray(scales, np.float32)


def _fit(values: Float32Array, step: float | None) -> tuple[np.float32, np.float32]:
    exact = values.astype(np.float64)
    slope = (exact[255] - exact[0]) / 255
    if slope == 0:
        raise UnsupportedNetwork("the arithmetic on the pixels makes the same value of all bytes")
    mean = np.float32(-exact[0] / slope)
    scale = np.float32(slope / (step or 1.0))
    for candidate in _near(scale):
        found = (np.arange(256, dtype=np.float32) - mean) * candidate
        if step is None:
            if np.abs(found - exact).max() <= _TOLERANCE * np.abs(exact).max():
                return mean, candidate
        elif np.array_equal(rounded(found), rounded(values / np.float32(step))):
            return mean, candidate
    raise UnsupportedNetwork("the arithmetic on the pixels is no difference with a mean, times a scale")


def rounded(values: Float32Array) -> Float32Array:
    """Values as QuantizeLinear rounds them."""
    return np.clip(np.rint(values), -128, 127).astype(np.float32)


def _near(value: np.float32) -> list[np.float32]:
    """The value, and its neighbours on both sides."""
    found, above, below = [value], value, value
    for _ in range(_NEIGHBOURS):
        above, below = np.nextafter(above, np.float32(np.inf)), np.nextafter(below, np.float32(-np.inf))
        found += [above, below]
    return found
