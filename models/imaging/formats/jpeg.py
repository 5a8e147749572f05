"""The parts of a JPEG file that are read before it is decoded: its segments and its scans.

Metadata is left out of the file that Pillow gets: Pillow would parse all of it, in time that grows with the square of
the number of segments, and refuses files whose metadata is damaged.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from models.imaging import orientation
from models.imaging.errors import NotAnImage

SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENTS = 4096
"""Most segments of a file. A large ICC profile or XMP block takes a few hundred."""
MAX_SCANS = 64
"""Most scans of a file, each of which visits all pixels. Progressive files have about ten."""

_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_MARKER_IN_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_END, _SCAN, _COMMENT = 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_METADATA = frozenset((*range(_APP0, 0xF0), _COMMENT))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_COEFFICIENT_BYTES = 2
_PART_BYTES = 1 << 18
"""A search in more bytes than this could keep the interpreter from other threads for too long."""
_LARGEST_UNIT = 32
"""Sides of an image are padded to a multiple of this or less, in pixels: four blocks of 8."""


class JpegFile(NamedTuple):
    """A file that is ready to be decoded."""

    data: bytes
    """The file without its metadata."""
    orientation: int
    coefficient_bytes: int
    """Memory for coefficients: a file of several scans is decoded only after all scans are read."""


def read(data: bytes) -> JpegFile:
    """Read the segments of a file, whose pixels may be damaged.

    Raises:
        NotAnImage: the file has too many segments or scans, or no scan.
    """
    view = memoryview(data)
    kept, found = [view[:2]], {_EXIF: b"", _XMP: b""}
    position, segments, frame, sequential = 2, 0, b"", True
    while marker := _search(_MARKER, data, position):
        kind, position = marker[1][0], marker.end()
        if kind in _WITHOUT_LENGTH:
            continue
        if kind == _END:
            break
        segments += 1
        if segments > MAX_SEGMENTS:
            raise NotAnImage(f"the JPEG file has more than {MAX_SEGMENTS:,} segments: save it again without metadata")
        if kind == _SCAN:
            scans = _count_scans(data, position)
            size = _coefficient_bytes(frame) if scans > 1 or not sequential else 0
            kept.append(view[marker.start() :])
            clean = data if sum(map(len, kept)) == len(data) else b"".join(kept)
            return JpegFile(clean, orientation.from_metadata(found[_EXIF], found[_XMP]), size)
        payload = data[position + 2 : position + int.from_bytes(data[position : position + 2])]
        if kind in _FRAMES:
            frame, sequential = payload, kind in _SEQUENTIAL
        if kind == _APP1:
            for name in found:
                if not found[name] and payload.startswith(name):
                    found[name] = payload
        position += max(2, 2 + len(payload))
        if kind not in _METADATA or (kind == _APP0 and payload.startswith(b"JFIF")) or kind == _APP14:
            kept.append(view[marker.start() : position])
    raise NotAnImage("the JPEG file ends before its pixels: send the whole file")


def _search(pattern: re.Pattern[bytes], data: bytes, position: int) -> re.Match[bytes] | None:
    """Search a marker of two bytes, part by part: a search keeps the interpreter from other threads."""
    while position < len(data):
        if marker := pattern.search(data, position, position + _PART_BYTES):
            return marker
        position += _PART_BYTES - 1
    return None


def _count_scans(data: bytes, start: int) -> int:
    """The scans of a file; `start` is behind the marker of the first."""
    # In pixels the marker cannot occur, so this is an upper bound, and takes a hundredth of the time.
    scans = 1 + data.count(b"\xff\xda", start)
    if scans <= MAX_SCANS:
        return scans
    scans, segments, position = 1, 0, start
    while marker := _search(_MARKER_IN_SCAN, data, position):
        kind, position = marker[1][0], marker.end()
        if kind == _END:
            break
        segments += 1
        scans += kind == _SCAN
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise NotAnImage(
                f"the JPEG file has more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments: save it again"
            )
        if kind not in _WITHOUT_LENGTH:
            position += max(2, int.from_bytes(data[position : position + 2]))
    return scans


def _coefficient_bytes(frame: bytes) -> int:
    """Memory for all coefficients of an image, from its frame header."""
    height, width = (int.from_bytes(frame[place : place + 2]) for place in (1, 3))
    padded = [-(-side // _LARGEST_UNIT) * _LARGEST_UNIT for side in (width, height)]
    return padded[0] * padded[1] * len(frame[6:]) // 3 * _COEFFICIENT_BYTES
