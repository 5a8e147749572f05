"""Conversion of an image to grey or colour, part by part: intermediate results take little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from models.imaging.errors import UnsupportedMode

Mode = Literal["L", "RGB"]

_PART_PIXELS = 1 << 18

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_mode(image: Image.Image, mode: Mode, check_time: Callable[[], None] = lambda: None) -> Image.Image:
    """Convert a Pillow image to grey or colour, with alpha over white and 16 bits scaled to 8.

    Args:
        image: the image, which may be returned as it is.
        mode: L or RGB.
        check_time: called between parts; raises to give up.

    Raises:
        UnsupportedMode: the colours cannot be converted.
    """
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.width * image.height <= _PART_PIXELS:
        return _convert(image, mode)
    result = Image.new(mode, image.size, None)  # a colour would be filled in while all threads stand still
    columns = min(image.width, _PART_PIXELS)
    rows = _PART_PIXELS // columns
    for top in range(0, image.height, rows):
        check_time()
        for left in range(0, image.width, columns):
            box = (left, top, min(left + columns, image.width), min(top + rows, image.height))
            result.paste(_convert(image.crop(box), mode), box)
    return result


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image that is stored with an EXIF orientation, 1 to 8."""
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def _convert(image: Image.Image, mode: Mode) -> Image.Image:
    try:
        if image.mode.startswith(("I", "F")):
            return _to_eight_bits(image).convert(mode)
        if image.mode == "LAB":  # Pillow converts it to colour only
            image = image.convert("RGB")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image if image.mode == mode else image.convert(mode)
    except (ValueError, ImportError) as error:
        raise UnsupportedMode(
            f"the image has colours of mode {image.mode}, which cannot be converted: save it in RGB or grey"
        ) from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        scaled = np.nan_to_num(values).clip(0.0, 1.0) * 255.0 + 0.5
        return Image.fromarray(scaled.astype(np.uint8))
    return Image.fromarray((values.astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
