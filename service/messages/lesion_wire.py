"""The message with which a worker has an image computed with blocks deleted, as bytes. The answer is RESULT."""

from __future__ import annotations

import struct
from typing import NamedTuple

from service.messages.wire import Kind, frame

_LESION = struct.Struct("<QQQdI")


class Lesion(NamedTuple):
    """The request of a worker."""

    request: int
    key: int
    offset: int
    """Of the image in the arena of the worker."""
    deadline: float
    deleted: tuple[int, ...]


def lesion_frame(message: Lesion) -> bytes:
    """LESION."""
    request, key, offset, deadline, deleted = message
    head = _LESION.pack(request, key, offset, deadline, len(deleted))
    return frame(Kind.LESION, head + struct.pack(f"<{len(deleted)}I", *deleted))


def read_lesion(body: memoryview) -> Lesion:
    """The content of LESION."""
    request, key, offset, deadline, count = _LESION.unpack_from(body)
    return Lesion(request, key, offset, deadline, struct.unpack_from(f"<{count}I", body, _LESION.size))
