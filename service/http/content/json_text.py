"""Parses JSON in request bodies, bounded in time and memory.

The parser holds the interpreter lock until its end, in any thread. So the size of JSON is limited before it is parsed,
in a unit that follows the cost: see `JsonSize`.
"""

from __future__ import annotations

import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from models.validation import first_error
from service.core.errors import BadRequest, PayloadTooLarge
from service.core.settings import Settings
from service.core.threads import run_python

_MAX_ON_EVENT_LOOP = 8192
"""Most bytes that are parsed on the event loop, in at most 1 ms; a hand-over to a thread takes 100 µs."""
_SLICE = 65536
"""Bytes that are measured at a time, in at most 15 ms; other threads run in between."""
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_ASCII = bytes(range(128))
_QUOTE_COST = 8
"""Bytes that a quote counts for: a key takes as long as 20 bytes of numbers."""
_BRACKET_COST = 3
"""Bytes that an opening bracket counts for in addition: a list of one number takes four times as long as a number."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_SchemaT = TypeVar("_SchemaT", bound=BaseModel)


class JsonSize:
    """Size of JSON, in bytes that take about as long as each other to parse: 10 to 50 ns.

    Counts the bytes outside of strings, 3 more for each opening bracket, 8 for each quote, and 1 for each escape and
    each byte that is not ASCII in a string. Plain characters of strings, such as base64, count nothing: they take 1 ns.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._in_string = False
        self._rest = b""
        """A backslash at the end of the last piece."""

    def add(self, piece: bytes) -> None:
        """Count the next piece of the text."""
        text, escapes = _ESCAPE.subn(b"", self._rest + piece)
        self._rest = b"\\" if text.endswith(b"\\") else b""
        parts = text.removesuffix(b"\\").split(b'"')
        outside, quotes = b"".join(parts[self._in_string :: 2]), len(parts) - 1
        brackets = outside.count(b"[") + outside.count(b"{")
        self.bytes += len(outside) + _BRACKET_COST * brackets + _QUOTE_COST * quotes + escapes
        if not text.isascii():
            self.bytes += len(text.translate(None, _ASCII))
        self._in_string ^= bool(quotes % 2)


async def parse(schema: type[_SchemaT], content: memoryview, settings: Settings) -> _SchemaT:
    """Parse JSON.

    Args:
        schema: schema of the JSON. Its lists must be `FailFast`.
        content: the text, UTF-8.
        settings: limits of the text: `max_json_bytes` as `JsonSize` counts, and `max_body_bytes`, also after
            decompression.

    Raises:
        BadRequest: the JSON is not valid, or does not match the schema.
        PayloadTooLarge: the JSON is larger than a limit.
    """
    if len(content) <= _MAX_ON_EVENT_LOOP:
        return parse_now(schema, content, settings)
    return await run_python(parse_now, schema, content, settings)


def parse_now(schema: type[_SchemaT], content: memoryview, settings: Settings) -> _SchemaT:
    """As `parse`, in the calling thread."""
    if len(content) > settings.max_body_bytes:
        raise PayloadTooLarge(f"the JSON is larger than the {settings.max_body_bytes:,} bytes accepted: send files")
    if len(content) > min(settings.max_json_bytes, _MAX_ON_EVENT_LOOP):
        _check_size(content, settings.max_json_bytes)
    try:
        return schema.model_validate_json(_text(content))
    except ValidationError as error:
        raise BadRequest(first_error(error)) from None


def _text(content: memoryview) -> bytes:
    """The text without a byte-order mark; without a copy if it is a whole body."""
    whole = content.obj
    if isinstance(whole, bytes) and len(whole) == len(content) and not whole.startswith(_BYTE_ORDER_MARK):
        return whole
    return bytes(content).removeprefix(_BYTE_ORDER_MARK)


def _check_size(content: memoryview, max_bytes: int) -> None:
    size = JsonSize()
    for start in range(0, len(content), _SLICE):
        size.add(bytes(content[start : start + _SLICE]))
        if size.bytes > max_bytes:
            raise PayloadTooLarge(
                f"the JSON is larger than the {max_bytes:,} bytes accepted, of which base64 counts nothing: send a "
                "tensor as binary data, images as files, or several requests"
            )
