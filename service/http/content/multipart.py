"""Reads the files in a form, multipart/form-data.

Calls python-multipart directly: Starlette's parser writes each file to a temporary file and reads it again, which takes
20 to 60 µs per image.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.core.errors import BadRequest, PayloadTooLarge


class _Reader:
    """Callbacks of the parser.

    Args:
        max_parts: most files, and most other fields.
    """

    def __init__(self, max_parts: int) -> None:
        self.files: list[bytes] = []
        self.ended = False
        self._max_parts = max_parts
        self._parts = 0
        self._name = self._value = self._disposition = b""
        self._content: list[bytes] | None = None
        """Content of a file; None in a part that is not a file."""

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > 2 * self._max_parts:
            raise PayloadTooLarge(
                f"more than {2 * self._max_parts} parts in one form: send the images in several requests"
            )
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
            raise PayloadTooLarge(f"more than {self._max_parts} images in one request: send them in several requests")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content.append(data[start:end])

    def on_part_end(self) -> None:
        if self._content is not None:
            self.files.append(b"".join(self._content))

    def on_end(self) -> None:
        self.ended = True


async def read_files(pieces: AsyncIterator[bytes], content_type: str, max_files: int) -> list[bytes]:
    """Read the contents of the files, in their order; other fields are ignored.

    Args:
        pieces: pieces of the body.
        content_type: the Content-Type, with the boundary.
        max_files: most files, and most other fields.

    Raises:
        BadRequest: the body is not a form, or its end is missing.
        PayloadTooLarge: there are too many files or other fields.
    """
    _, options = parse_options_header(content_type)
    if b"boundary" not in options:
        raise BadRequest("the form cannot be read: its Content-Type has no boundary")
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
