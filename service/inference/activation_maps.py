"""Class activation maps: the pixels that support each class (Zhou et al. 2016, arXiv:1512.04150).

A map has the grid of the last feature map, 7 x 7 for a ResNet-50 at 224 pixels. To draw a map, it is scaled up
bilinearly and projected back onto the image, through the crop and the resizing of the preprocessing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from models.artifact.classifier_head import Classifier
from models.artifact.parity import Float32Array
from models.imaging.preprocess import Geometry

OVERLAY_SIDE = 128
"""Longest side of an overlay in pixels. A map has no finer detail, and clients scale it to the image."""
PICTURE_SIDES = 256, 1024
"""Smallest and largest longer side of a picture, in pixels."""

# Nine samples of matplotlib's "plasma" (CC0): its lightness rises evenly, also for people with colour blindness.
_PLASMA = np.array(
    [
        (13, 8, 135), (76, 2, 161), (126, 3, 168), (170, 35, 149), (204, 71, 120),
        (230, 108, 92), (248, 149, 64), (253, 197, 39), (240, 249, 33),
    ]
)  # fmt: skip
_MOST_OPAQUE = 200


def _palette() -> tuple[bytes, bytes]:
    """Colours and opacities of 256 steps from zero to the largest value of a map."""
    steps = np.linspace(0, 1, 256)
    colours = [np.interp(steps, np.linspace(0, 1, len(_PLASMA)), channel) for channel in _PLASMA.T]
    opacity = _MOST_OPAQUE * np.minimum(1, steps * 1.5)
    return np.stack(colours, axis=1).round().astype(np.uint8).tobytes(), opacity.round().astype(np.uint8).tobytes()


_COLOURS, _OPACITY = _palette()


def activation_maps(feature_map: Float32Array, classifier: Classifier, classes: Sequence[int]) -> Float32Array:
    """Contribution of each position of one image to the logits of some classes.

    M_c(y, x) = sum_k w_ck f_k(y, x) / (h w), equation 2 of the paper divided by the number of positions: the network
    averages over the positions, so the sum of a map is the logit of its class without the bias.

    Args:
        feature_map: float32 [features, h, w].
        classifier: weights of the last layer.
        classes: indices of classes.

    Returns:
        float32 [len(classes), h, w], in the order of `classes`.
    """
    _, height, width = feature_map.shape
    maps: Float32Array = np.tensordot(classifier.weight[classes], feature_map, axes=1) / np.float32(height * width)
    return maps


def overlay(values: Float32Array, geometry: Geometry, width: int, height: int) -> bytes:
    """Draw a map as a transparent PNG with the proportions of the image.

    Colour and opacity rise from zero, which is transparent, to the largest value; negative values are not drawn.

    Args:
        values: the map, float32 [h, w].
        geometry: resizing and crop of the preprocessing.
        width: width of the image in pixels.
        height: height of the image in pixels.
    """
    buffer = io.BytesIO()
    layer = _layer(values, geometry, (width, height), _fit((width, height), OVERLAY_SIDE))
    layer.save(buffer, "PNG", compress_level=1, transparency=_OPACITY)
    return buffer.getvalue()


def canvas(image: Image.Image) -> Image.Image:
    """Scale an image for `picture`, so that its longer side is within `PICTURE_SIDES`. Mode "RGBA"."""
    least, most = PICTURE_SIDES
    size = _fit(image.size, min(max(max(image.size), least), most))
    return image.convert("RGB").resize(size, Image.Resampling.BILINEAR).convert("RGBA")


def picture(values: Float32Array, geometry: Geometry, size: tuple[int, int], below: Image.Image) -> bytes:
    """Draw a map over its image, as a PNG.

    Args:
        values: the map, float32 [h, w].
        geometry: resizing and crop of the preprocessing.
        size: width and height of the image in pixels.
        below: the image, from `canvas`.
    """
    buffer = io.BytesIO()
    layer = _layer(values, geometry, size, below.size)
    layer.info["transparency"] = _OPACITY
    Image.alpha_composite(below, layer.convert("RGBA")).convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _fit(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """The size with the same proportions and a longer side of `longest` pixels."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _layer(values: Float32Array, geometry: Geometry, image: tuple[int, int], canvas: tuple[int, int]) -> Image.Image:
    """A map as palette indices, mode "P", on a canvas that shows the whole image; 0 outside the crop."""
    left, top, right, bottom = geometry.region(*image)
    first, last, begin, end = _span(left, right, canvas[0] / image[0], geometry.size[1], values.shape[1])
    upper, lower, start, stop = _span(top, bottom, canvas[1] / image[1], geometry.size[0], values.shape[0])
    positive = values.clip(min=0)
    steps = np.pad(positive * (255 / max(float(positive.max()), 1e-12)), (0, 1), mode="edge")
    drawn = Image.fromarray(steps).resize(
        (last - first, lower - upper), Image.Resampling.BILINEAR, box=(begin, start, end, stop)
    )
    layer = Image.new("P", canvas)
    layer.putpalette(_COLOURS)
    layer.paste(Image.fromarray(np.asarray(drawn).round().astype(np.uint8)), (first, upper))
    return layer


def _span(start: float, stop: float, scale: float, size: int, cells: int) -> tuple[int, int, float, float]:
    """One axis of a crop: its pixels on the canvas, and the part of the map that they show.

    Cell i is centred on pixel `stride` i of the input of the network, where its receptive field is: a convolution with
    stride 2 and padding is centred on pixel 2 i. Spreading the cells evenly over the crop, as is often done, draws them
    half a stride too far to the right and down: 16 of 224 pixels for a ResNet-50.

    Args:
        start: first edge of the crop, in pixels of the image.
        stop: last edge of the crop, in pixels of the image.
        scale: pixels of the canvas per pixel of the image.
        size: pixels of the input of the network.
        cells: cells of the map.

    Returns:
        first and last pixel on the canvas, first and last coordinate on the map.
    """
    stride = 1 << math.ceil(math.log2(max(1.0, size / cells)))
    first = min(round(start * scale), math.ceil(stop * scale) - 1)  # a crop can be narrower than a pixel
    last = max(first + 1, round(stop * scale))

    def on_map(edge: int) -> float:
        pixel = (edge / scale - start) * size / (stop - start)
        return min(max((pixel - 0.5) / stride + 0.5, 0.0), cells + 1.0)  # the map is padded with its last cell

    return first, last, on_map(first), on_map(last)
