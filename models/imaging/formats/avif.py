"""AVIF files: the pixels that their AV1 streams really have, and how Pillow opens a file.

An image may claim 64 x 64 pixels and hold a stream of 16,384 x 16,384, which libavif decodes and then scales. So the
sizes are read from the streams: https://aomediacodec.github.io/av1-avif/ and https://aomediacodec.github.io/av1-spec/
(5.5, sequence header). The places of the streams are in the boxes of ISO 14496-12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from PIL import Image, ImageFile

from models.imaging.formats.boxes import MAX_PARTS, boxes, check_parts

_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
_CONFIGURATION, _HIGH_BIT_DEPTH = b"av1C", 0x40
_DEEP_BYTES = 12
_EXIF_ITEM, _NO_ITEM = b"\0Exif", b"\0none"
_SEQUENCE_HEADER, _FRAMES = 1, (3, 6)
"""Types of the units of a stream (OBU)."""
_HEAD_BYTES = 4096
"""Beginning of a stream in which its header must be."""
_MAX_UNITS = 16
_MAX_HEADER = 256
_MAX_EXIF_ITEMS = 16


def matches(data: bytes) -> bool:
    """Whether this is an AVIF file, from its signature."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def deep_pixel_bytes(data: bytes) -> int:
    """Bytes per pixel that pixels of 10 or 12 bits take more than those of 8."""
    place = -1
    for _ in range(MAX_PARTS):
        place = data.find(_CONFIGURATION, place + 1)
        if place < 0:
            return 0
        if data[place + 6 : place + 7] and data[place + 6] & _HIGH_BIT_DEPTH:
            break
    return _DEEP_BYTES


def stream_pixels(data: bytes) -> int:
    """Pixels of all streams together: the image, its alpha, tiles and previews. 0 if no stream can be read.

    Raises:
        NotAnImage: the file has too many parts.
    """
    pixels = 0
    for number, place in enumerate(_stream_places(data)):
        check_parts(number)
        if 0 <= place < len(data):
            pixels += _pixels_of_stream(data[place : place + _HEAD_BYTES])
    return pixels


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
        file.write(data.replace(_EXIF_ITEM, _NO_ITEM, _MAX_EXIF_ITEMS))
        file.seek(0)
        return Image.open(file, formats=("AVIF",))


def _stream_places(data: bytes) -> Iterator[int]:
    """Places of the first bytes of all items and tracks."""
    for name, start, end in boxes(data, 0, len(data)):
        if name == b"meta":
            inner = {box: (first, last) for box, first, last in boxes(data, start + 4, end)}
            if b"iloc" in inner:
                yield from _item_places(data[slice(*inner[b"iloc"])], inner.get(b"idat", (0, 0))[0])
        elif name == b"moov":
            for table, form in ((b"stco", ">I"), (b"co64", ">Q")):
                place = data.find(table, start, end)
                while place >= 0 and place + 20 <= end:
                    yield struct.unpack_from(form, data, place + 12)[0]
                    place = data.find(table, place + 4, end)


def _item_places(table: bytes, item_data: int) -> Iterator[int]:
    """Places of items, -1 without data, from the table of locations; `item_data` is the place of data in the header."""
    if len(table) < 8:
        return
    version, sizes = table[0], (table[4] >> 4, table[4] & 15, table[5] >> 4, table[5] & 15 if table[0] else 0)
    offset_size, length_size, base_size, index_size = sizes
    wide, position = 4 if version == 2 else 2, 6

    def number(size: int) -> int:
        nonlocal position
        position += size
        return int.from_bytes(table[position - size : position])

    items = number(wide)
    check_parts(items)
    for _ in range(items):
        number(wide)
        within_header = version > 0 and number(2) & 15 == 1
        number(2)
        base, extents = number(base_size), number(2)
        first = position
        number(index_size)
        offset = number(offset_size)
        yield base + offset + (item_data if within_header else 0) if extents else -1
        position = first + extents * (index_size + offset_size + length_size)


def _pixels_of_stream(head: bytes) -> int:
    """Pixels of a frame, from the largest sequence header before the first frame."""
    position, pixels = 0, 0
    for _ in range(_MAX_UNITS):
        if position >= len(head):
            break
        flags = head[position]
        kind = flags >> 3 & 15
        position += 2 if flags & 4 else 1
        size = len(head)  # without a size, the unit ends with the stream
        if flags & 2:
            size, position = _leb128(head, position)
        if kind == _SEQUENCE_HEADER:
            pixels = max(pixels, _pixels_of_header(head[position : position + min(size, _MAX_HEADER)]))
        if kind in _FRAMES:
            break
        position += size
    return pixels


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to eight bytes, seven bits in each, the lowest first; and the position behind it."""
    value = 0
    for shift in range(0, 56, 7):
        if position >= len(data):
            break
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            break
    return value, position


def _pixels_of_header(header: bytes) -> int:
    """Width times height of the largest frame, from a sequence header; the names are those of the specification."""
    bits, total = int.from_bytes(header), 8 * len(header)

    def take(count: int) -> int:
        nonlocal total
        total -= count
        return bits >> max(0, total) & ((1 << count) - 1)

    take(4)  # seq_profile, still_picture
    if take(1):  # reduced_still_picture_header
        take(5)  # seq_level_idx
    else:
        delay_bits = 0
        if take(1):  # timing_info_present_flag
            take(64)
            if take(1):  # equal_picture_interval
                zeros = 0
                while total > 0 and not take(1):
                    zeros += 1
                take(zeros)
            if take(1):  # decoder_model_info_present_flag
                delay_bits = take(5) + 1
                take(42)
        display_delay = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            if take(5) > 7:
                take(1)
            if delay_bits and take(1):
                take(2 * delay_bits + 1)
            if display_delay and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    width, height = take(width_bits) + 1, take(height_bits) + 1
    return width * height if total >= 0 else 0
