"""Memory that decoding an image takes, from its format, mode and size, before its pixels are made.

The figures were measured as the peak of a process's memory; `tests/unit/test_decode_memory.py` measures them again.
Those of HEIC and JPEG XL are above the smallest limit of their process that is enough: 11 and 21 bytes per pixel.
"""

from __future__ import annotations

from PIL import ImageFile

from models.imaging.conversion import Mode

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel of Pillow's modes; 4 for the others."""
_OTHER_STORED = 4
_CODEC = {"WEBP": (15, 10), "AVIF": (12, 9), "GIF": (1, 1), "HEIF": (12, 4), "JXL": (24, 4)}
"""Bytes per pixel that the codec of a format takes besides the image: while it decodes, and afterwards."""
_ROW_BYTES = 32
"""Bytes per pixel of a row: codecs have two to four rows of up to 8 bytes per pixel."""
_FIXED = 8 * 1024 * 1024
"""Bytes of the parts in which an image is converted, and of buffers."""


def decoding_bytes(
    file_format: str, stored: str, width: int, height: int, mode: Mode, *, converted: bool, turned: bool
) -> int:
    """Bytes that an image takes while it is decoded, converted to `mode` and turned upright.

    Args:
        file_format: name of the format.
        stored: Pillow's mode of the pixels in the file.
        width: width in pixels.
        height: height in pixels.
        mode: mode of the result.
        converted: whether the pixels are converted.
        turned: whether they are turned.
    """
    before, after = (_STORED.get(each, _OTHER_STORED) for each in (stored, mode))
    decoding, afterwards = _CODEC.get(file_format, (0, 0))
    per_pixel = max(before + decoding, (before + after) * converted + afterwards, 2 * after * turned + afterwards)
    return width * height * per_pixel + width * _ROW_BYTES + _FIXED


def codec_bytes(file_format: str, width: int, height: int) -> int:
    """Bytes that the codec of a format takes while it decodes."""
    return width * height * _CODEC[file_format][0]


def of_image(image: ImageFile.ImageFile, mode: Mode, turned: bool) -> int:
    """As `decoding_bytes`, for an open file."""
    converted = image.mode != mode or image.has_transparency_data
    return decoding_bytes(
        image.format or "", image.mode, image.width, image.height, mode, converted=converted, turned=turned
    )
