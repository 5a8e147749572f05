"""The messages with which the engine process decodes files of a worker, as bytes.

The files and the decoded pixels are in the arena of the worker, which has chosen where.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from service.core.priority import Priority
from service.messages.wire import Kind, frame

_DECODE = struct.Struct("<QQB7x")
_DECODED = struct.Struct("<Q")
_FILE = struct.Struct("<QQQ")
_SIZE = struct.Struct("<II")
_NOT_TAKEN = (0, 0)
_PRIORITIES = tuple(Priority)


class FilePlace(NamedTuple):
    """A file in the arena, and the place of its pixels."""

    offset: int
    """Of the first byte, in the arena."""
    length: int
    pixels: int
    """Offset of the place for the decoded pixels."""


class Decode(NamedTuple):
    """Decode files, for a version."""

    request: int
    key: int
    priority: Priority
    files: Sequence[FilePlace]


def decode_frame(message: Decode) -> bytes:
    """DECODE."""
    head = _DECODE.pack(message.request, message.key, _PRIORITIES.index(message.priority))
    return frame(Kind.DECODE, head + b"".join(_FILE.pack(*place) for place in message.files))


def read_decode(body: memoryview) -> Decode:
    """The content of DECODE."""
    request, key, priority = _DECODE.unpack_from(body)
    files = [FilePlace(*place) for place in _FILE.iter_unpack(body[_DECODE.size :])]
    return Decode(request, key, _PRIORITIES[priority], files)


def decoded_frame(request: int, sizes: Sequence[tuple[int, int] | None]) -> bytes:
    """DECODED.

    Args:
        request: number of the request.
        sizes: width and height of each image; None in place of a file that the GPU does not take.
    """
    packed = [_SIZE.pack(*(size or _NOT_TAKEN)) for size in sizes]
    return frame(Kind.DECODED, _DECODED.pack(request) + b"".join(packed))


def read_decoded(body: memoryview) -> tuple[int, list[tuple[int, int] | None]]:
    """The content of DECODED: the number of the request, and the sizes."""
    (request,) = _DECODED.unpack_from(body)
    sizes = _SIZE.iter_unpack(body[_DECODED.size :])
    return request, [None if size == _NOT_TAKEN else size for size in sizes]
