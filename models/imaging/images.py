"""Decodes image files to Pillow images in the colour mode of a network, for training, serving and scoring. No torch.

- the EXIF orientation is applied, so a portrait photograph of a phone is upright; unreadable metadata means upright;
- 16-bit and 32-bit grey is scaled to 8 bits (range of 32-bit values: 0-65535 for integers, 0-1 for floating point);
- alpha is composed over white; palettes, CMYK and other modes are converted by Pillow;
- the first frame of an animation is used;
- ICC profiles are ignored, because networks are trained on the stored values.

Files are hostile: the cost of a file is read from its headers first (`sources`), and limited by an `Allowance`.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from typing import NamedTuple

from PIL import AvifImagePlugin, Image, ImageFile, UnidentifiedImageError

from models.imaging import decode_cost, sources
from models.imaging.allowance import DEFAULT_MAX_PIXELS, UNLIMITED, Allowance
from models.imaging.conversion import Mode, to_mode, upright
from models.imaging.errors import DeadlinePassed, ImageError, NotAnImage, TooManyPixels, TooMuchMemory, UnsupportedMode
from models.imaging.formats import png
from models.imaging.orientation import UPRIGHT
from models.imaging.sources import FORMATS, Source

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FORMATS",
    "Allowance",
    "DeadlinePassed",
    "ImageError",
    "Mode",
    "NotAnImage",
    "Reduced",
    "TooManyPixels",
    "TooMuchMemory",
    "UnsupportedMode",
    "decode",
    "decode_reduced",
    "to_mode",
]

# Pillow warns of odd metadata in files that it decodes. Set once, because `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module="PIL")
Image.init()  # loads all codecs now, or the first damaged file would wait for them
# `Allowance.max_pixels` is the limit instead: per call, and checked before decoding.
Image.MAX_IMAGE_PIXELS = None
# Images are decoded in several threads already, and each thread of a decoder takes memory of its own.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_SIDEWAYS, _FROM_RIGHT, _FROM_BOTTOM = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
"""EXIF orientations that swap width and height, that move the left side to the right, and the top to the bottom."""

_PLAIN_PNG_PIXELS = 256 * 256
"""Largest PNG that is decoded without Pillow's reader; for larger ones it makes no difference."""
_LONG_RATIO = 8
_SLOW_CODECS = {
    "ppm_plain": "as text",
    "ppm": "with a largest value other than 255 or 65535",
    "bmp_rle": "as run lengths",
}
"""How files store their pixels whose codec is written in Python."""
_OUT_OF_MEMORY = "out of memory"
"""In the text of Pillow's error."""


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


def _nothing(width: int, height: int) -> int:
    return 0


def decode(data: bytes, mode: Mode, allowance: Allowance = UNLIMITED) -> Image.Image:
    """Decode an image file completely (Pillow's `open` alone is lazy).

    Returns:
        An upright image in `mode`. Its `format` is the format of the file, such as "JPEG".

    Raises:
        NotAnImage: the bytes are empty, no image, of a format not in `FORMATS`, truncated or damaged.
        UnsupportedMode: the colours cannot be converted.
        TooManyPixels, TooMuchMemory, DeadlinePassed: as the allowance.
        MemoryError: there is no memory.
    """
    return decode_reduced(data, mode, None, allowance).image


def decode_reduced(
    data: bytes,
    mode: Mode,
    min_shorter_side: int | None,
    allowance: Allowance = UNLIMITED,
    needed_later: Callable[[int, int], int] = _nothing,
) -> Reduced:
    """Decode like `decode`, but a JPEG file at 1/2, 1/4 or 1/8 of its size if that is enough.

    Fewer DCT coefficients per block are then transformed, so a photograph of a camera takes a fraction of the time. The
    smaller image is nearly the mean of each 2 x 2, 4 x 4 or 8 x 8 pixels.

    Args:
        data: content of the file.
        mode: L or RGB.
        min_shorter_side: smallest shorter side of the result in pixels; None decodes at full size.
        allowance: limits. The caller releases it when the image is no longer used.
        needed_later: gives the bytes that the caller takes for an upright image of a width and height, which are
            reserved as well; may raise ImageError.

    Raises:
        ImageError, DeadlinePassed, MemoryError: as for `decode`.
    """
    if not data:
        raise NotAnImage("the image is empty: send the bytes of an image file")
    if (plain := png.decode(data, min(_PLAIN_PNG_PIXELS, allowance.max_pixels))) is not None:
        width, height = plain.size
        if max(width, height) > _LONG_RATIO * min(width, height):  # grows when it is resized
            allowance.reserve(needed_later(width, height))
        result = to_mode(plain, mode)
        result.format = plain.format
        return Reduced(result, width, height, (0.0, 0.0, width, height))
    try:
        return _decode(sources.read(data), mode, min_shorter_side, allowance, needed_later)
    except (ImageError, DeadlinePassed, MemoryError):
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
        AttributeError,
        EOFError,
        ArithmeticError,
        AssertionError,
        struct.error,
        RuntimeError,
    ) as error:
        # Pillow documents OSError, but its readers raise all of these for damaged files.
        if _OUT_OF_MEMORY in str(error):
            raise MemoryError(str(error)) from error
        raise NotAnImage(f"the image is damaged or incomplete ({error}): send the whole file") from error


def _decode(
    source: Source,
    mode: Mode,
    min_shorter_side: int | None,
    allowance: Allowance,
    needed_later: Callable[[int, int], int],
) -> Reduced:
    if source.size is not None:  # Pillow allocates the pixels when it opens the file
        width, height = source.size
        source.check_pixels(width, height, allowance)
        needed = decode_cost.decoding_bytes(source.format, "RGBA", width, height, mode, converted=True, turned=True)
        later = max(needed_later(width, height), needed_later(height, width))
        pixels = width * height
        allowance.reserve(needed + source.extra_bytes(pixels) + later, source.copied_bytes(pixels))
    with source.open(allowance) as image:
        _use_native_codec(image)
        width, height = image.size
        orientation = source.orientation_of(image)
        if source.size is None:
            source.check_pixels(width, height, allowance)
            later = needed_later(height, width) if orientation in _SIDEWAYS else needed_later(width, height)
            if min_shorter_side is not None:
                image.draft(None, (min_shorter_side, min_shorter_side))  # does nothing with other formats
            if allowance.counts_memory:
                needed = decode_cost.of_image(image, mode, orientation != UPRIGHT)
                pixels = width * height
                allowance.reserve(needed + source.extra_bytes(pixels) + later, source.copied_bytes(pixels))
        fraction = round(width / image.width)
        image.load()
        file_format = image.format
        result = to_mode(image, mode, allowance.check_time)
    del image
    result = upright(result, orientation)
    result.format = file_format
    return _placed(result, width, height, fraction, orientation)


def _use_native_codec(image: ImageFile.ImageFile) -> None:
    """Refuse files whose codec is written in Python: it is slow, and keeps the interpreter from other threads."""
    codec = image.tile[0][0] if image.tile else ""
    if codec == "ppm" and image.tile[0][3] == ("RGB", 65535):
        image.tile = [image.tile[0]._replace(codec_name="raw", args="RGB;16B")]  # as for PNG: the high byte
    elif codec in Image.DECODERS:
        stored = _SLOW_CODECS.get(codec, f"as {codec}")
        raise NotAnImage(f"the {image.format} file stores its pixels {stored}, which is not accepted: save it as PNG")


def _placed(image: Image.Image, width: int, height: int, fraction: int, orientation: int) -> Reduced:
    """The position of a whole image of `width` x `height` stored pixels in an upright one at a fraction of its size."""
    if orientation in _SIDEWAYS:
        width, height = height, width
    across, down = width / fraction, height / fraction
    left = image.width - across if orientation in _FROM_RIGHT else 0.0
    top = image.height - down if orientation in _FROM_BOTTOM else 0.0
    return Reduced(image, width, height, (left, top, left + across, top + down))
