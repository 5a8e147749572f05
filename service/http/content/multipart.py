"""Reads the files in a form, multipart/form-data.

Calls python-multipart directly: Starlette's parser writes each file to a temporary file and reads it again, which takes
20 to 60 µs per image.
"""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.core.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from service.core.threads import run_python
from service.http.content import base64_text

_FILE_TYPES = (b"image/", b"application/octet-stream", b"binary/octet-stream")
_EXTENDED_FILENAME = re.compile(rb";\s*filename\*(?:0\*?)?=", re.IGNORECASE)
_AS_IT_IS = (b"", b"binary", b"8bit", b"7bit")
_DECODE: dict[bytes, Callable[[bytes], bytes]] = {
    b"base64": base64_text.decode,
    b"quoted-printable": binascii.a2b_qp,
}
"""By Content-Transfer-Encoding, which clients set that use libraries for e-mail."""
_LARGE = 1 << 20
"""Bytes of a form whose files are put together in a thread."""


class _File:
    """A part that is a file.

    Args:
        decode: undoes the Content-Transfer-Encoding; None if there is none.
        named: whether the file has a name.
    """

    def __init__(self, decode: Callable[[bytes], bytes] | None, named: bool) -> None:
        self.buffer = io.BytesIO()
        self.named = named
        self._decode = decode

    def content(self) -> bytes:
        """The content of the file.

        Raises:
            BadRequest: it does not match its encoding.
        """
        try:
            content = self.buffer.getvalue()  # not a copy
            return content if self._decode is None else self._decode(content)
        except ValueError as error:
            raise BadRequest(f"a file does not match its Content-Transfer-Encoding: {error}") from None


class _Reader:
    """Callbacks of the parser.

    Args:
        max_parts: most files, and most other fields.
    """

    def __init__(self, max_parts: int) -> None:
        self.files: list[_File] = []
        self.ended = False
        self._max_parts = max_parts
        self._parts = 0
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._file: _File | None = None
        """The current part, if it is a file."""

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > 2 * self._max_parts:
            raise PayloadTooLarge(
                f"more than {2 * self._max_parts} parts in one form: send the images in several requests"
            )
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        extended = _EXTENDED_FILENAME.search(disposition) is not None  # `parse_options_header` leaves it out
        if b"name" not in options and b"filename" not in options and not extended:
            raise BadRequest("the form cannot be read: a part has no Content-Disposition with a name")
        self._file = None
        if b"filename" in options or extended or self._header(b"content-type").startswith(_FILE_TYPES):
            if len(self.files) == self._max_parts:
                raise PayloadTooLarge(
                    f"more than {self._max_parts} images in one request: send them in several requests"
                )
            self._file = _File(self._decoder(), extended or options.get(b"filename") != b"")
            self.files.append(self._file)

    def _header(self, name: bytes) -> bytes:
        return self._headers.get(name, b"").strip().lower()

    def _decoder(self) -> Callable[[bytes], bytes] | None:
        encoding = self._header(b"content-transfer-encoding")
        if encoding not in _DECODE and encoding not in _AS_IT_IS:
            raise UnsupportedMediaType(
                f"Content-Transfer-Encoding {encoding.decode('latin-1')!r} is not supported: send files as they are"
            )
        return _DECODE.get(encoding)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.buffer.write(memoryview(data)[start:end])

    def on_end(self) -> None:
        self.ended = True


async def read_files(pieces: AsyncIterator[bytes], content_type: str, max_files: int) -> list[bytes]:
    """Read the contents of the files, in their order; other fields are ignored.

    A file is a part with a file name, or with the type of an image. For a field without a chosen file, browsers send an
    empty part with an empty name, which is left out.

    Args:
        pieces: pieces of the body.
        content_type: the Content-Type, with the boundary.
        max_files: most files, and most other fields.

    Raises:
        BadRequest: the body is not a form, its end is missing, or a file does not match its encoding.
        PayloadTooLarge: there are too many files or other fields.
        UnsupportedMediaType: the encoding of a file is not supported.
    """
    _, options = parse_options_header(content_type)
    if b"boundary" not in options:
        raise BadRequest("the form cannot be read: its Content-Type has no boundary")
    reader = _Reader(max_files)
    callbacks: Any = {name: getattr(reader, name) for name in vars(_Reader) if name.startswith("on_")}
    size = 0
    try:
        parser = MultipartParser(options[b"boundary"], callbacks)
        async for piece in pieces:
            parser.write(piece)
            size += len(piece)
    except FormParserError as error:
        raise BadRequest(f"the form cannot be read: {error}") from None
    if not reader.ended:
        raise BadRequest("the form cannot be read: its end is missing")
    files = [file for file in reader.files if file.named or file.buffer.tell()]
    return await run_python(_contents, files) if size > _LARGE else _contents(files)


def _contents(files: Sequence[_File]) -> list[bytes]:
    return [file.content() for file in files]
