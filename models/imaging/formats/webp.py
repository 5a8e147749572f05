"""The size of a WebP image, from its header. Pillow allocates all pixels when it opens a file."""

from __future__ import annotations

_START_CODE = b"\x9d\x01\x2a"
_LOSSLESS = b"\x2f"
_BITS = 14
"""Bits of a side, in the headers of lossy and lossless pixels."""


def matches(data: bytes) -> bool:
    """Whether this is a WebP file, from its signature."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels; None if the header is damaged."""
    header = data[:30]
    side = (1 << _BITS) - 1
    match header[12:16]:
        case b"VP8 " if header[23:26] == _START_CODE:
            return _little(header[26:28]) & side, _little(header[28:30]) & side
        case b"VP8L" if header[20:21] == _LOSSLESS:
            bits = _little(header[21:25])
            return (bits & side) + 1, (bits >> _BITS & side) + 1
        case b"VP8X":
            return _little(header[24:27]) + 1, _little(header[27:30]) + 1
    return None


def _little(value: bytes) -> int:
    return int.from_bytes(value, "little")
