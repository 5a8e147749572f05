"""The size of a HEIC image, from its header: ISO 23008-12, whose boxes are those of ISO 14496-12."""

from __future__ import annotations

import struct

from models.imaging.errors import NotAnImage
from models.imaging.formats.boxes import boxes

_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis"))
"""Brands of files whose image is HEVC."""
_ANY_IMAGE = (b"mif1", b"msf1")
"""Brands of files with an image in any codec; the compatible brands name it."""
_MAX_BRANDS = 64
_INNER = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes around the sizes, from outside to inside, with the bytes of their headers."""


def matches(data: bytes) -> bool:
    """Whether this is a HEIC file, from its signature."""
    if data[4:8] != b"ftyp":
        return False
    brand, end = data[8:12], min(int.from_bytes(data[:4]), len(data), 4 * _MAX_BRANDS)
    compatible = {data[place : place + 4] for place in range(16, end, 4)}
    return brand in _BRANDS or (brand in _ANY_IMAGE and bool(compatible & _BRANDS))


def size(data: bytes) -> tuple[int, int]:
    """Width and height, in pixels, of the largest image: of a photograph in tiles, with previews, it is the whole.

    Raises:
        NotAnImage: the header has no size.
    """
    start, end = 0, len(data)
    for name, header in _INNER.items():
        found = next(((first, last) for box, first, last in boxes(data, start, end) if box == name), None)
        if found is None:
            raise NotAnImage(
                "the HEIC file has no size in its header: send the whole file, of an image and not a video"
            )
        start, end = found[0] + header, found[1]
    sizes = [
        struct.unpack_from(">II", data, first + 4)
        for box, first, last in boxes(data, start, end)
        if box == b"ispe" and first + 12 <= last
    ]
    width, height = max(sizes, key=lambda each: each[0] * each[1], default=(0, 0))
    if not width * height:
        raise NotAnImage("the HEIC file has no size in its header: send the whole file")
    return width, height
