"""The files in a form, multipart/form-data.

By python-multipart itself: Starlette's way through it writes each file to a temporary one and reads it again, for 20 to
60 µs an image.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.core.errors import BadRequest, PayloadTooLarge


class _Reader:
    """What the parser calls.

    Args:
        max_parts: files that are taken, and fields beside them.
    """

    def __init__(self, max_parts: int) -> None:
        self.files: list[bytes] = []
        self.ended = False
        self._max_parts = max_parts
        self._parts = 0
        self._name = self._value = self._disposition = b""
        self._content: list[bytes] | None = None
        """Of a file; what is no file is not kept."""

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > 2 * self._max_parts:
            raise PayloadTooLarge(f"more than {2 * self._max_parts} parts in one form: send the images in several")
        self._disposition = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise BadRequest("the form cannot be read: a part has no Content-Disposition with a name")
        self._content = [] if b"filename" in options else None
        if self._content is not None and len(self.files) == self._max_parts:
            raise PayloadTooLarge(f"more than {self._max_parts} images in one request: send them in several")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content.append(data[start:end])

    def on_part_end(self) -> None:
        if self._content is not None:
            self.files.append(b"".join(self._content))

    def on_end(self) -> None:
        self.ended = True


async def read_files(pieces: AsyncIterator[bytes], content_type: str, max_files: int) -> list[bytes]:
    """The contents of the files, in their order; other fields are passed over.

    Args:
        pieces: of the body.
        content_type: with the boundary.
        max_files: most that are taken.

    Raises:
        BadRequest: it is no such form, or the end of it is missing.
        PayloadTooLarge: more files, or as many other fields.
    """
    _, options = parse_options_header(content_type)
    if b"boundary" not in options:
        raise BadRequest("the form cannot be read: its Content-Type names no boundary")
    reader = _Reader(max_files)
    callbacks: Any = {name: getattr(reader, name) for name in vars(_Reader) if name.startswith("on_")}
    try:
        parser = MultipartParser(options[b"boundary"], callbacks)
        async for piece in pieces:
            parser.write(piece)
    except FormParserError as error:
        raise BadRequest(f"the form cannot be read: {error}") from None
    if not reader.ended:
        raise BadRequest("the form cannot be read: its end is missing")
    return reader.files
