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
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow warns of odd metadata in files that decode well. Set once: `catch_warnings` is not safe between threads.
warnings.filterwarnings("ignore", module="PIL")
Image.init()  # all codecs now, or the first damaged file waits for them
# The limit is `max_pixels` below, checked before anything is decoded, per call and without a warning.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Formats that are tried: common, and decoded by code that is fuzzed. Pillow knows more, old and little used."""

DEFAULT_MAX_PIXELS = 64_000_000


class ImageError(ValueError):
    """The bytes cannot be used as an image; the message is for the person who sent them."""


class NotAnImage(ImageError):
    """Not an image, of an unknown format, or damaged."""


class TooManyPixels(ImageError):
    """Larger than the limit; found from the header, before decoding."""


def decode(data: bytes, mode: Literal["L", "RGB"], max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image file completely (Pillow's `open` alone is lazy).

    Returns:
        An upright image in `mode`. Its `format` is that of the file, such as "JPEG".

    Raises:
        NotAnImage: empty, not an image, of a format not in `FORMATS`, truncated or otherwise damaged.
        TooManyPixels: width x height is over `max_pixels`.
    """
    if not data:
        raise NotAnImage("the image is empty: send the bytes of an image file")
    try:
        return _decode(data, mode, max_pixels)
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


def _decode(data: bytes, mode: Literal["L", "RGB"], max_pixels: int) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise TooManyPixels(
                f"the image has {image.width} x {image.height} pixels, more than the {max_pixels:,} "
                "that are accepted: scale it down first"
            )
        file_format = image.format
        image.load()
        upright = ImageOps.exif_transpose(image)
        result = to_mode(upright, mode)
    result.format = file_format
    return result


def to_mode(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
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
