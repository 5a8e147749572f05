"""Reads protobuf with limits: a small message can take much memory once it is parsed.

Raw tensors are cut out of a request before the rest of it is parsed, without a copy: protobuf would copy them twice.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from service.core.errors import BadRequest, PayloadTooLarge
from service.core.threads import run_python

_MAX_FIELDS = 1024
"""Most fields of a request; each takes 1 µs."""
_MAX_ON_EVENT_LOOP = 65536
"""Most bytes that are parsed on the event loop, in about 1 ms."""
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
_MAX_VARINT_BYTES = 10


class UnreadableMessage(BadRequest):
    """The bytes of a message are not protobuf of its kind."""

    def __init__(self) -> None:
        super().__init__("the message is not valid protobuf of the kind that the method takes")


async def parse(kind: Any, data: bytes, max_bytes: int) -> Any:
    """Parse a message.

    Args:
        kind: its class.
        data: its bytes.
        max_bytes: most bytes.

    Raises:
        UnreadableMessage: the bytes are not such a message.
        PayloadTooLarge: there are too many bytes.
    """
    if len(data) > max_bytes:
        raise PayloadTooLarge(
            f"the message without raw tensors is larger than the {max_bytes:,} bytes accepted: send the tensor as "
            "raw_input_contents"
        )
    try:
        if len(data) <= _MAX_ON_EVENT_LOOP:
            return kind.FromString(data)
        return await run_python(kind.FromString, data)
    except DecodeError:
        raise UnreadableMessage from None


def cut_out(data: bytes, field: int) -> tuple[bytes, list[memoryview]]:
    """Take a repeated field of bytes out of a message.

    Args:
        data: the message.
        field: number of the field.

    Returns:
        The message without the field, and the values of the field.

    Raises:
        UnreadableMessage: the bytes are not a message.
        BadRequest: it has too many fields.
    """
    whole, rest, found = memoryview(data), [], list[memoryview]()
    wanted = field << 3 | _LENGTH_DELIMITED
    position = kept = fields = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        end = _end_of_value(data, tag & 7, position)
        if tag == wanted:
            rest.append(whole[kept:start])
            _, position = _varint(data, position)
            found.append(whole[position:end])
            kept = end
        position = end
        fields += 1
        if fields > _MAX_FIELDS:
            raise BadRequest(f"the message has more than {_MAX_FIELDS:,} fields")
    rest.append(whole[kept:])
    return b"".join(rest), found


def _end_of_value(data: bytes, kind: int, position: int) -> int:
    if kind == 0:
        _, end = _varint(data, position)
    elif kind == _LENGTH_DELIMITED:
        length, end = _varint(data, position)
        end += length
    elif kind in _FIXED:
        end = position + _FIXED[kind]
    else:  # groups, which the protocol does not have
        raise UnreadableMessage
    if end > len(data):
        raise UnreadableMessage
    return end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and the position behind it."""
    value = shift = 0
    for index in range(position, min(position + _MAX_VARINT_BYTES, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise UnreadableMessage
