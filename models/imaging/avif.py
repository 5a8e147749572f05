"""AVIF files."""

from __future__ import annotations

from typing import IO

from PIL import Image, ImageFile

_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
_CONFIGURATION, _HIGH_BIT_DEPTH = b"av1C", 0x40
_DEEP_BYTES = 12
_EXIF_ITEM, _NO_ITEM = b"\0Exif", b"\0none"


def matches(data: bytes) -> bool:
    """Whether this is an AVIF file, from its signature."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def deep_pixel_bytes(data: bytes) -> int:
    """Bytes per pixel that pixels of 10 or 12 bits take more than those of 8."""
    place = data.find(_CONFIGURATION)
    while place >= 0:
        if data[place + 6 : place + 7] and data[place + 6] & _HIGH_BIT_DEPTH:
            return _DEEP_BYTES
        place = data.find(_CONFIGURATION, place + 1)
    return 0


def open_image(file: IO[bytes]) -> ImageFile.ImageFile:
    """Open a file. Raises what Pillow raises."""
    try:
        return Image.open(file, formats=("AVIF",))
    except Exception:
        file.seek(0)
        data = file.read()
        if _EXIF_ITEM not in data:
            raise
        # Pillow refuses a file whose EXIF block it cannot read. Under another name it does not look at the block.
        file.seek(0)
        file.write(data.replace(_EXIF_ITEM, _NO_ITEM))
        file.seek(0)
        return Image.open(file, formats=("AVIF",))
