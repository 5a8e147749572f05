"""The orientation of a photograph from its metadata. Unreadable metadata means upright.

Only the one field is read. Pillow's reader takes the whole EXIF block, and raises if any of its fields is damaged.
"""

from __future__ import annotations

import re
import struct

UPRIGHT = 1

_TAG = 0x0112
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""`struct` code of each integer type of a field."""
_PREFIX = b"Exif\0\0"
_MAX_XMP = 256 * 1024
"""Bytes of XMP that are searched; the orientation is near its beginning."""
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def from_metadata(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation, 1 to 8, from an EXIF block or else from XMP; 1 (upright) if neither has a readable one."""
    found = _from_exif(exif) if exif else None
    if found is None and xmp and (match := _XMP.search(xmp, 0, _MAX_XMP)):
        found = int(match[1])
    return UPRIGHT if found is None else found


def _from_exif(exif: bytes) -> int | None:
    """The orientation from the first directory of an EXIF block, which is a TIFF file without an image."""
    exif = exif.removeprefix(_PREFIX).removeprefix(_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        fields = exif[start + 2 : start + 2 + 12 * count]
        for tag, kind, values, value in struct.iter_unpack(order + "HHI4s", fields[: len(fields) // 12 * 12]):
            if tag == _TAG:
                number = struct.unpack_from(order + _TYPES[kind], value)[0] if values else 0
                return number if 1 <= number <= 8 else None
    except (struct.error, KeyError):
        pass
    return None
