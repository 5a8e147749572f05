"""From the bytes of an image file to a Pillow image in the colour mode that a network takes.

No torch. What real files hold is handled here, once, for training, serving and scoring alike:

- EXIF orientation is applied, so a phone's portrait photograph stands upright;
- 16-bit and 32-bit grey is scaled to 8 bits (32-bit is taken to span 0-65535 if integer, 0-1 if floating point);
- alpha is composed over white; palettes, CMYK and other modes are converted by Pillow;
- of an animation the first frame is used;
- ICC profiles are ignored: networks are trained on the stored values.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from models.imaging import png

# Pillow warns of odd metadata in files that decode well. Set once: `catch_warnings` is not safe between threads.
warnings.filterwarnings("ignore", module="PIL")
Image.init()  # all codecs now, or the first damaged file waits for them
# The limit is `max_pixels` below, checked before anything is decoded, per call and without a warning.
Image.MAX_IMAGE_PIXELS = None

Mode = Literal["L", "RGB"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Formats that are tried: common, and decoded by code that is fuzzed. Pillow knows more, old and little used."""

_TURNED = (2, 3, 4, 5, 6, 7, 8)
"""EXIF orientations of images that are not stored upright."""
_SIDEWAYS, _FROM_RIGHT, _FROM_BOTTOM = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
"""EXIF orientations by which width and height change places, what was left comes to lie right, and top below."""

DEFAULT_MAX_PIXELS = 64_000_000


class ImageError(ValueError):
    """The bytes cannot be used as an image; the message is for the person who sent them."""


class NotAnImage(ImageError):
    """Not an image, of an unknown format, or damaged."""


class TooManyPixels(ImageError):
    """Larger than the limit; found from the header, before decoding."""


class Reduced(NamedTuple):
    """An upright image, perhaps at a fraction of its size."""

    image: Image.Image
    """Its `format` is that of the file, such as "JPEG"."""
    width: int
    """Of the whole image."""
    height: int
    box: tuple[float, float, float, float]
    """Where the whole image lies in `image`: left, top, right, bottom in its pixels. The last of these may be pixels
    of the whole image only in part."""


def decode(data: bytes, mode: Mode, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image file completely (Pillow's `open` alone is lazy).

    Returns:
        An upright image in `mode`. Its `format` is that of the file, such as "JPEG".

    Raises:
        NotAnImage: empty, not an image, of a format not in `FORMATS`, truncated or otherwise damaged.
        TooManyPixels: width x height is over `max_pixels`.
    """
    return decode_reduced(data, mode, None, max_pixels).image


def decode_reduced(
    data: bytes, mode: Mode, min_shorter_side: int | None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Reduced:
    """Decode as `decode` does, but a JPEG file at 1/2, 1/4 or 1/8 of its size where that is enough.

    Fewer of a block's DCT coefficients are then transformed, so a photograph from a camera takes a fraction of the
    time. The smaller image is nearly the mean of each 2 x 2, 4 x 4 or 8 x 8 pixels.

    Args:
        data: the file.
        mode: L or RGB.
        min_shorter_side: pixels that the shorter side must keep; None decodes all.
        max_pixels: of the file, not of what is decoded.

    Raises:
        NotAnImage, TooManyPixels: as `decode`.
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
        # Everything that Pillow's readers raise on damaged files; OSError is what it documents.
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
        # It would copy an image that is upright already.
        result = to_mode(ImageOps.exif_transpose(image) if orientation in _TURNED else image, mode)
    result.format = file_format
    if orientation in _SIDEWAYS:
        width, height = height, width
    across, down = width / fraction, height / fraction
    left = result.width - across if orientation in _FROM_RIGHT else 0.0
    top = result.height - down if orientation in _FROM_BOTTOM else 0.0
    return Reduced(result, width, height, (left, top, left + across, top + down))


def to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """Any Pillow image as grey or colour, with alpha over white and 16 bits brought to 8."""
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
