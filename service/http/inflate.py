"""Decompresses a body piece by piece, so that the event loop has its turn between two pieces."""

from __future__ import annotations

import zlib

from service.core.errors import BadRequest, PayloadTooLarge
from service.core.threads import run_python

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_FIRST_PIECE = 64 * 1024
_PIECE = 256 * 1024
"""Bytes decompressed at a time, in at most 2 ms."""
_MAX_ON_EVENT_LOOP = 4096
"""Most compressed bytes whose first piece is decompressed on the event loop; a hand-over to a thread takes 100 µs."""


class Inflate:
    """Decompresses gzip, zlib, or a bare stream of deflate, as .NET's DeflateStream writes it.

    Args:
        max_bytes: most bytes after decompression.
    """

    def __init__(self, max_bytes: int) -> None:
        self.pending = b""
        """Bytes to decompress."""
        self.done = False
        """Whether everything is decompressed."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._stream: zlib._Decompress | None = None

    @property
    def waits(self) -> bool:
        """Whether it needs more bytes: at the start two, which tell the format."""
        return len(self.pending) < (2 if self._stream is None else 1)

    async def piece(self, last: bool) -> bytes:
        """Decompress a piece of the pending bytes; with `last`, no more bytes follow them.

        Raises:
            BadRequest: the bytes cannot be decompressed.
            PayloadTooLarge: there are more than `max_bytes`.
        """
        if not self._bytes and len(self.pending) <= _MAX_ON_EVENT_LOOP:
            return self._piece(last, _FIRST_PIECE)
        return await run_python(self._piece, last, _PIECE)

    def _piece(self, last: bool, size: int) -> bytes:
        if self._stream is None:
            self._stream = zlib.decompressobj(_GZIP_OR_ZLIB if _has_head(self.pending) else -zlib.MAX_WBITS)
        try:
            data = self._stream.decompress(self.pending, size)
        except zlib.error as error:
            raise BadRequest(f"the body does not match its Content-Encoding: {error}") from None
        if self._stream.unused_data:
            raise BadRequest("the body has more bytes after the end of the compressed data")
        self.pending = self._stream.unconsumed_tail
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            raise PayloadTooLarge(f"the body is larger than the {self._max_bytes:,} bytes accepted once decompressed")
        if last and not self.pending and len(data) < size:
            if not self._stream.eof:
                raise BadRequest("the compressed body is incomplete")
            self.done = True
        return data


def _has_head(data: bytes) -> bool:
    """Whether data begins as gzip or zlib (RFC 1950: method 8, and a multiple of 31)."""
    zlib_head = len(data) >= 2 and data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return zlib_head or len(data) < 2 or data.startswith(b"\x1f\x8b")
