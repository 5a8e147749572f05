"""The chunks of a PNG file that matter for its pixels, and its orientation.

Metadata is left out of the file that Pillow gets: Pillow would decompress it, and refuses files whose text or colour
profile is damaged or larger than a megabyte.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from models.imaging import orientation
from models.imaging.errors import NotAnImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
"""Most chunks of a file. Encoders write chunks of 8 KB and more."""

_CHUNK = struct.Struct(">I4s")
_OVERHEAD = 12
"""Bytes of a chunk beside its data: length, name, checksum."""
_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_TEXT = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_XMP = b"XML:com.adobe.xmp\0"
_RAW_EXIF = b"Raw profile type exif\0"
"""The text in which programs stored EXIF before PNG had a chunk for it."""
_MAX_TEXT = 256 * 1024
"""Bytes of a text that are read; the orientation is near its beginning."""


class PngFile(NamedTuple):
    """A file that is ready to be decoded."""

    data: bytes
    """The file without its metadata."""
    orientation: int


def read(data: bytes) -> PngFile:
    """Read the chunks of a file, whose pixels may be damaged.

    Raises:
        NotAnImage: the file has too many chunks.
    """
    view = memoryview(data)
    kept, exif, raw_exif, xmp = [view[: len(SIGNATURE)]], b"", b"", b""
    position, chunks = len(SIGNATURE), 0
    while position + _OVERHEAD <= len(data):
        size, name = _CHUNK.unpack_from(data, position)
        start, end = position + _CHUNK.size, position + _OVERHEAD + size
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise NotAnImage(f"the PNG file has more than {MAX_CHUNKS:,} chunks: save it again")
        if name in _KEPT or end > len(data):
            kept.append(view[position:end])
        elif name == b"eXIf":
            exif = exif or data[start : start + size]
        elif name in _TEXT and data.startswith(_RAW_EXIF, start):
            raw_exif = raw_exif or data[start : start + min(size, _MAX_TEXT)]
        elif name == b"iTXt" and data.startswith(_XMP, start):
            xmp = xmp or _international_text(data[start + len(_XMP) : start + min(size, _MAX_TEXT)])
        position = end
        if name == b"IEND":
            break
    kept.append(view[position:])
    clean = data if sum(map(len, kept)) == len(data) else b"".join(kept)
    return PngFile(clean, orientation.from_metadata(exif or _raw_exif(raw_exif), xmp))


def _international_text(text: bytes) -> bytes:
    """The beginning of the text of an iTXt chunk, given without its keyword."""
    compressed = text[:1] == b"\1"
    value = text[2:].split(b"\0", 2)[-1]  # behind language and translated keyword
    return _decompress(value) if compressed else value


def _raw_exif(text: bytes) -> bytes:
    """EXIF from a text of hexadecimal digits, behind a name and a length; empty if there is none."""
    if not text:
        return b""
    value = text[len(_RAW_EXIF) :]
    digits = (_decompress(value[1:]) if value[:1] == b"\0" else value).split(b"\n", 3)[-1]
    try:
        return bytes.fromhex(digits.replace(b"\n", b"")[: _MAX_TEXT // 2 * 2].decode("ascii"))
    except ValueError:
        return b""


def _decompress(value: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(value, _MAX_TEXT)
    except zlib.error:
        return b""
