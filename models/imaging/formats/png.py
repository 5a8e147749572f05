"""A fast path for plain PNG files: Pillow's decoder without its reader.

For an image of 32 x 32 pixels, the reader takes half of the time. Files with a palette, transparency, 16 bits,
interlacing, text or damage are left to Pillow, which handles them or names the damage.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_KIND = len(_SIGNATURE)
_HEADER = struct.Struct(">II5sI")  # width, height, kind, checksum
_MODES = {b"\x08\x00\0\0\0": "L", b"\x08\x02\0\0\0": "RGB"}
"""Pillow's mode by depth, colours, compression, filter and interlacing."""
_CHUNK = struct.Struct(">I4s")
_CHUNK_OVERHEAD = 12
"""Bytes of a chunk beside its data: length, name, checksum."""
_IGNORED_CHUNKS = (b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"sBIT", b"tIME")
"""Chunks that do not change Pillow's pixels."""


def decode(data: bytes, max_pixels: int) -> Image.Image | None:
    """The image of a plain file, L or RGB; None for any other file, and for more than `max_pixels`."""
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
    image = Image.new(mode, (width, height), None)  # `Image.frombytes` first fills it with black
    try:
        image.frombytes(pixels, "zip", mode, 0)
    except ValueError:  # too few or damaged pixels
        return None
    image.format = "PNG"
    return image


def _pixels(data: bytes, start: int) -> bytes | None:
    """The compressed pixels of all chunks from `start` on; None if other chunks matter or a chunk is damaged."""
    parts: list[bytes] = []
    while start + _CHUNK_OVERHEAD <= len(data):
        size, name = _CHUNK.unpack_from(data, start)
        end = start + _CHUNK_OVERHEAD + size
        if name == b"IDAT" and end <= len(data):
            parts.append(data[start + 8 : end - 4])
        elif name == b"IEND":
            return parts[0] if len(parts) == 1 else b"".join(parts)
        elif name not in _IGNORED_CHUNKS or zlib.crc32(data[start + 4 : end - 4]).to_bytes(4) != data[end - 4 : end]:
            return None
        start = end
    return None
