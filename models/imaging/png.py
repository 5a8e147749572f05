"""The plainest PNG files, by Pillow's decoder and without its reader.

For an image of 32 x 32 pixels, as small networks take them, the reader is half of the work. What is not plain in any
way (a palette, transparency, 16 bits, interlacing, text, damage) is left to Pillow, which knows what to do with it, or
what to say.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_KIND = len(_SIGNATURE)
_HEADER = struct.Struct(">II5sI")  # width, height, kind, checksum
_MODES = {b"\x08\x00\0\0\0": "L", b"\x08\x02\0\0\0": "RGB"}
"""By depth, colours, compression, filter and interlacing."""
_CHUNK = struct.Struct(">I4s")
_AROUND = 12
"""Bytes of a chunk beside its data: length, name, checksum."""
_SAYS_NOTHING = (b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"sBIT", b"tIME")
"""Chunks that Pillow's pixels do not depend on."""


def decode(data: bytes, max_pixels: int) -> Image.Image | None:
    """The image in a plain file, L or RGB; None of any other, and of one with more pixels."""
    if not data.startswith(_SIGNATURE) or len(data) < _KIND + _HEADER.size:
        return None
    width, height, kind, checksum = _HEADER.unpack_from(data, _KIND)
    mode = _MODES.get(kind)
    if mode is None or not 0 < width * height <= max_pixels:
        return None
    if zlib.crc32(data[_KIND - 4 : _KIND + _HEADER.size - 4]) != checksum:
        return None
    pixels = _pixels(data, _KIND + _HEADER.size)
    if pixels is None:
        return None
    try:
        image = Image.frombytes(mode, (width, height), pixels, "zip", mode, 0)
    except ValueError:
        return None
    image.format = "PNG"
    return image


def _pixels(data: bytes, start: int) -> bytes | None:
    """The compressed pixels, in one or several chunks from `start` on; None if anything else needs to be looked at."""
    parts: list[bytes] = []
    while start + _AROUND <= len(data):
        size, name = _CHUNK.unpack_from(data, start)
        end = start + _AROUND + size
        if name == b"IDAT" and end <= len(data):
            parts.append(data[start + 8 : end - 4])
        elif name == b"IEND":
            return parts[0] if len(parts) == 1 else b"".join(parts)
        elif name not in _SAYS_NOTHING or zlib.crc32(data[start + 4 : end - 4]).to_bytes(4) != data[end - 4 : end]:
            return None
        start = end
    return None
