"""The boxes of ISO 14496-12, which AVIF, HEIC and JPEG XL files consist of."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from models.imaging.errors import NotAnImage

MAX_PARTS = 1024
"""Most boxes in a box, items and streams of a file."""


def check_parts(count: int) -> None:
    """Check the number of boxes, items or streams.

    Raises:
        NotAnImage: there are too many.
    """
    if count > MAX_PARTS:
        raise NotAnImage(f"the image file has more than {MAX_PARTS:,} boxes, items or streams: save it again")


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, and begin and end of the content, of each box.

    Raises:
        NotAnImage: there are too many.
    """
    count = 0
    while start + 8 <= end:
        count += 1
        check_parts(count)
        size, name = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if size == 0 else min(end, start + size)
        if stop < content:
            return
        yield name, content, stop
        start = stop
