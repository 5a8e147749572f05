"""The headers of a TIFF file, read before it is decoded: they say how much memory and time it takes."""

from __future__ import annotations

import struct
from typing import NamedTuple

from PIL import TiffImagePlugin

from models.imaging.errors import NotAnImage

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_FIELDS = 4096
"""Most fields of the directory of the image."""
MAX_VALUES = 65_536
"""Most values of a field, and so most strips or tiles."""
COMPRESSIONS = {1: "none", 2: "CCITT", 3: "CCITT 3", 4: "CCITT 4", 5: "LZW", 7: "JPEG", 8: "Deflate", 32773: "PackBits"}
COMPRESSIONS |= {32946: "Deflate", 50000: "Zstandard"}
"""Accepted compressions. The time of the others is not bounded by their pixels, or they are hardly used."""
MAX_SCANS_PER_PART = 16
"""Most scans of each JPEG stream in the file, on average."""

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 277, 278, 322, 323
"""Tags of fields, by their names in TIFF 6.0."""
_BYTES = (1, 2, 6, 7)
"""Types of fields that are bytes or text, and cost nothing until they are used."""
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q", 6: "b", 8: "h", 9: "i", 17: "q"}
"""`struct` code of each type of a number."""
_MAX_SAMPLES = 16
_JPEG = 7
_YCBCR, _RGBA_BYTES = 6, 4
"""Pixels of this kind are converted by libtiff."""


class _Field(NamedTuple):
    kind: int
    values: int
    value: bytes
    """The value, or where it is."""


class TiffFile(NamedTuple):
    """The cost of a file when it is decoded, and its orientation."""

    orientation: int | None
    """None if there is no field for it."""
    pixels: int
    """Pixels that are decoded: those of all tiles, which may be larger than the image."""
    part_bytes: int
    """Memory of a strip or tile."""


class TiffImage(TiffImagePlugin.TiffImageFile):
    """Pillow's reader without the turning, for which it reads all metadata, and fails if some is damaged."""

    def _setup(self) -> None:
        super()._setup()
        self._size = self._tile_size  # as stored, not upright

    def load_end(self) -> None:
        """Do nothing to the pixels."""


def read(data: bytes) -> TiffFile:
    """Read the directory of the first image.

    Raises:
        NotAnImage: the directory is damaged, or asks for too much.
    """
    try:
        order, fields = _fields(data)
        width, length = (_number(data, order, fields, tag, None) for tag in (_WIDTH, _LENGTH))
        compression = _number(data, order, fields, _COMPRESSION, 1)
        samples = _number(data, order, fields, _SAMPLES, 1)
        bits = _number(data, order, fields, _BITS, 1)
        tile = [_number(data, order, fields, tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        turned = _number(data, order, fields, _ORIENTATION, 0)
    except (struct.error, KeyError) as error:
        raise NotAnImage(f"the TIFF file is damaged ({error}): save it again") from error
    if compression not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise NotAnImage(f"the TIFF file has compression {compression}, which is not accepted (only {known})")
    if all(tile):
        across, down = -(-width // tile[0]), -(-length // tile[1])
        pixels, part, parts = across * down * tile[0] * tile[1], tile[0] * tile[1], across * down
    else:
        rows = min(_number(data, order, fields, _ROWS_PER_STRIP, length), length)
        pixels, part, parts = width * length, width * rows, -(-length // max(1, rows))
    if compression == _JPEG and data.count(b"\xff\xda") > MAX_SCANS_PER_PART * max(1, parts):
        raise NotAnImage(f"the TIFF file has more than {MAX_SCANS_PER_PART} JPEG scans per strip: save it again")
    coefficients = 2 if compression == _JPEG else 0
    stored = -(-bits * samples // 8)
    if _number(data, order, fields, _PHOTOMETRIC, 0) == _YCBCR:
        stored = max(stored, _RGBA_BYTES)
    part_bytes = part * (stored + coefficients * samples)
    return TiffFile(turned if 1 <= turned <= 8 else None, pixels, part_bytes)


def _fields(data: bytes) -> tuple[str, dict[int, _Field]]:
    """Byte order and fields of the first directory. The first of several fields with the same tag counts."""
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    offset_code, count_code, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    (start,) = struct.unpack_from(order + offset_code, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_code, data, start)
    if count > MAX_FIELDS:
        raise NotAnImage(f"the TIFF file has {count:,} fields, more than {MAX_FIELDS:,}: save it again")
    start += struct.calcsize(order + count_code)
    fields: dict[int, _Field] = {}
    size = struct.calcsize(order + entry)
    for tag, kind, values, value in struct.iter_unpack(order + entry, data[start : start + count * size]):
        if values > MAX_VALUES and kind not in _BYTES:
            raise NotAnImage(f"the TIFF file has {values:,} values in a field, more than {MAX_VALUES:,}: save it again")
        fields.setdefault(tag, _Field(kind, values, value))
    return order, fields


def _number(data: bytes, order: str, fields: dict[int, _Field], tag: int, default: int | None) -> int:
    """The largest value of a field of a few numbers. Raises KeyError if it is missing without a default."""
    field = fields.get(tag)
    if field is None or field.kind not in _TYPES or not field.values:
        if default is None:
            raise KeyError(f"field {tag} is missing")
        return default
    code = f"{order}{min(field.values, _MAX_SAMPLES)}{_TYPES[field.kind]}"
    if struct.calcsize(code) <= len(field.value):
        return int(max(struct.unpack_from(code, field.value)))
    (place,) = struct.unpack(order + ("I" if len(field.value) == 4 else "Q"), field.value)
    return int(max(struct.unpack_from(code, data, place)))
