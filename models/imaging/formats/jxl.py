"""The size of a JPEG XL image, from its header: ISO 18181-1, image header; and ISO 18181-2 for files of boxes."""

from __future__ import annotations

from models.imaging.errors import NotAnImage
from models.imaging.formats.boxes import boxes

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEAD_BYTES = 64
"""Bytes of the codestream that hold its header up to the fields that are read."""
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIZES = ((9, 1), (13, 1), (18, 1), (30, 1))
_PREVIEW_SIZES = ((6, 1), (8, 65), (10, 321), (12, 1345))
_PREVIEW_EIGHTHS = ((0, 16), (0, 32), (5, 1), (9, 33))
"""Number of bits, and the value that is added, of each kind of a number."""


def matches(data: bytes) -> bool:
    """Whether this is a JPEG XL file, from its signature."""
    return data.startswith((_CODESTREAM, _CONTAINER))


def size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        NotAnImage: the header is damaged, or the file is an animation: its decoder gives the last frame.
    """
    head = data[:_HEAD_BYTES] if data.startswith(_CODESTREAM) else _codestream(data)
    bits = _Bits(head.removeprefix(_CODESTREAM))
    width, height = _size(bits)
    animated = False
    if not bits.take(1) and bits.take(1):  # not all_default, and extra_fields
        bits.take(3)  # orientation, which the decoder applies
        if bits.take(1):
            _size(bits)
        if bits.take(1):
            _skip_preview(bits)
        animated = bool(bits.take(1))
    if bits.left < 0:
        raise NotAnImage("the header of the JPEG XL file is damaged: send the whole file")
    if animated:
        raise NotAnImage("the JPEG XL file is an animation, which is not accepted: send its first frame as an image")
    return width, height


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream, which may be in several boxes."""
    head = b""
    for name, start, end in boxes(data, 0, len(data)):
        if name == b"jxlc":
            return data[start : min(end, start + _HEAD_BYTES)]
        if name == b"jxlp":  # behind the number of the part
            head += data[start + 4 : min(end, start + 4 + _HEAD_BYTES)]
            if len(head) >= _HEAD_BYTES:
                break
    return head


class _Bits:
    """Reads bits, the lowest of each byte first; behind the end they are zeros, and `left` is negative."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self.left = 8 * len(data)

    def take(self, count: int) -> int:
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self.left -= count
        return value

    def number(self, kinds: tuple[tuple[int, int], ...]) -> int:
        """A number of one of four kinds."""
        count, added = kinds[self.take(2)]
        return self.take(count) + added


def _size(bits: _Bits) -> tuple[int, int]:
    """Width and height of a SizeHeader."""
    eighths = bits.take(1)
    height = 8 * (bits.take(5) + 1) if eighths else bits.number(_SIZES)
    if ratio := bits.take(3):
        across, down = _RATIOS[ratio]
        return height * across // down, height
    return 8 * (bits.take(5) + 1) if eighths else bits.number(_SIZES), height


def _skip_preview(bits: _Bits) -> None:
    kinds = _PREVIEW_EIGHTHS if bits.take(1) else _PREVIEW_SIZES
    bits.number(kinds)
    if not bits.take(3):
        bits.number(kinds)
