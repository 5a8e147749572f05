"""Decodes image files to Pillow images in the colour mode of a network, for training, serving and scoring. No torch.

- the EXIF orientation is applied, so a portrait photograph of a phone is upright;
- 16-bit and 32-bit grey is scaled to 8 bits (range of 32-bit values: 0-65535 for integers, 0-1 for floating point);
- alpha is composed over white; palettes, CMYK and other modes are converted by Pillow;
- the first frame of an animation is used;
- ICC profiles are ignored, because networks are trained on the stored values.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from models.imaging import png

# Pillow warns of odd metadata in files that it decodes. Set once, because `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module="PIL")
Image.init()  # loads all codecs now, or the first damaged file would wait for them
# `max_pixels` below is the limit instead: per call, and checked before decoding.
Image.MAX_IMAGE_PIXELS = None

Mode = Literal["L", "RGB"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Accepted formats: common ones, whose decoders are fuzzed. Pillow knows further formats, which are little used."""

_TURNED = (2, 3, 4, 5, 6, 7, 8)
"""EXIF orientations of images that are stored turned or mirrored."""
_SIDEWAYS, _FROM_RIGHT, _FROM_BOTTOM = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
"""EXIF orientations that swap width and height, that move the left side to the right, and the top to the bottom."""

DEFAULT_MAX_PIXELS = 64_000_000


class ImageError(ValueError):
    """The bytes cannot be used as an image; the message is meant for the client."""


class NotAnImage(ImageError):
    """The bytes are no image, have an unknown format or are damaged."""


class TooManyPixels(ImageError):
    """The image has more pixels than the limit, according to its header."""


class Reduced(NamedTuple):
    """An upright image, possibly decoded at a fraction of its size."""

    image: Image.Image
    """Its `format` is the format of the file, such as "JPEG"."""
    width: int
    """Width of the whole image in pixels."""
    height: int
    """Height of the whole image in pixels."""
    box: tuple[float, float, float, float]
    """Position of the whole image in `image`: left, top, right, bottom in pixels of `image`, whose last row and column
    may lie partly outside."""


def decode(data: bytes, mode: Mode, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image file completely (Pillow's `open` alone is lazy).

    Returns:
        An upright image in `mode`. Its `format` is the format of the file, such as "JPEG".

    Raises:
        NotAnImage: the bytes are empty, no image, of a format not in `FORMATS`, truncated or damaged.
        TooManyPixels: width x height is larger than `max_pixels`.
    """
    return decode_reduced(data, mode, None, max_pixels).image


def decode_reduced(
    data: bytes, mode: Mode, min_shorter_side: int | None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Reduced:
    """Decode like `decode`, but a JPEG file at 1/2, 1/4 or 1/8 of its size if that is enough.

    Fewer DCT coefficients per block are then transformed, so a photograph of a camera takes a fraction of the time. The
    smaller image is nearly the mean of each 2 x 2, 4 x 4 or 8 x 8 pixels.

    Args:
        data: content of the file.
        mode: L or RGB.
        min_shorter_side: smallest shorter side of the result in pixels; None decodes at full size.
        max_pixels: limit of the full size.

    Raises:
        NotAnImage, TooManyPixels: as for `decode`.
    """
    if not data:
        raise NotAnImage("the image is empty: send the bytes of an image file")
    if (plain := png.decode(data, max_pixels)) is not None:
        width, height = plain.size
        result = to_mode(plain, mode)
        result.format = plain.format
        return Reduced(result, width, height, (0.0, 0.0, width, height))
    try:
        return _decode(data, mode, min_shorter_side, max_pixels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise NotAnImage(f"this is not an image in a known format ({', '.join(FORMATS)})") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        EOFError,
        struct.error,
        RuntimeError,
        MemoryError,
    ) as error:
        # Pillow documents OSError, but its readers raise all of these for damaged files.
        raise NotAnImage(f"the image is damaged or incomplete ({error}): send the whole file") from error


def _decode(data: bytes, mode: Mode, min_shorter_side: int | None, max_pixels: int) -> Reduced:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooManyPixels(
                f"the image has {width} x {height} pixels, more than the {max_pixels:,} "
                "that are accepted: scale it down first"
            )
        file_format = image.format
        if min_shorter_side is not None:
            image.draft(None, (min_shorter_side, min_shorter_side))  # does nothing with other formats
        fraction = round(width / image.width)
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        # It would also copy an image that is upright.
        result = to_mode(ImageOps.exif_transpose(image) if orientation in _TURNED else image, mode)
    result.format = file_format
    if orientation in _SIDEWAYS:
        width, height = height, width
    across, down = width / fraction, height / fraction
    left = result.width - across if orientation in _FROM_RIGHT else 0.0
    top = result.height - down if orientation in _FROM_BOTTOM else 0.0
    return Reduced(result, width, height, (left, top, left + across, top + down))


def to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """Convert a Pillow image to grey or colour, with alpha over white and 16 bits scaled to 8."""
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        scaled = np.nan_to_num(values).clip(0.0, 1.0) * 255.0 + 0.5
        return Image.fromarray(scaled.astype(np.uint8))
    return Image.fromarray((values.astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
