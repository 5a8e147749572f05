"""The body of a request as it arrives: counted, limited in time, and decompressed piece by piece."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from service.core.errors import BadRequest, Overloaded, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from service.http.connection_state import connection_state

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_PIECE = 256 * 1024
"""Bytes decompressed at a time; takes about a millisecond, in which the event loop does nothing else."""


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header with a lower-case name. A quarter of the time of Starlette's `Headers`."""
    for given, value in scope["headers"]:
        if given == name:
            text: str = value.decode("latin-1")
            return text
    return default


def path(scope: Scope) -> str:
    """The path of a request, without the root path of the service."""
    whole: str = scope["path"]
    return whole.removeprefix(scope.get("root_path", ""))


@dataclass
class BodyMemory:
    """Memory of the bodies of all requests in flight."""

    max_bytes: int
    used_bytes: int = 0


class LimitedBody:
    """ASGI `receive` that wraps the one of the server, until `release`.

    Args:
        scope: scope of the request.
        receive: `receive` of the server.
        memory: shared by the bodies of all requests.
        max_bytes: largest body as it is sent.
        max_decompressed: largest body after its Content-Encoding is undone, in bytes.
        seconds: time limit for the last byte to arrive.

    Raises:
        UnsupportedMediaType: the Content-Encoding is not supported.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        memory: BodyMemory,
        *,
        max_bytes: int,
        max_decompressed: int,
        seconds: float,
    ) -> None:
        self._content_length = int(header(scope, b"content-length", "0"))
        self._connection = connection_state(scope)
        self._receive = receive
        self._memory = memory
        self._max_bytes = max_bytes
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._bytes = 0
        self._complete = False
        self._inflate: _Inflate | None = None
        encoding = header(scope, b"content-encoding").strip().lower() or "identity"
        if encoding in ("gzip", "deflate"):
            self._inflate = _Inflate(max_decompressed)
        elif encoding != "identity":
            raise UnsupportedMediaType(f"Content-Encoding {encoding!r} is not supported: send gzip, deflate or none")

    async def receive(self) -> Message:
        """Receive the next piece.

        Raises:
            PayloadTooLarge: the body is too large, by its Content-Length, as sent or decompressed.
            RequestTimeout: the body did not arrive in time.
            Overloaded: the bodies of all requests together take too much memory.
            BadRequest: the body cannot be decompressed.
        """
        if self._inflate is None:
            return await self._next()
        if not self._inflate.pending and not self._complete:
            message = await self._next()
            if message["type"] == "http.disconnect":
                return message
            self._inflate.pending = message.get("body", b"")
        elif self._inflate.done:
            return await self._next()
        piece = self._inflate.piece(self._complete)
        return {"type": "http.request", "body": piece, "more_body": not self._inflate.done}

    async def _next(self) -> Message:
        if self._complete:  # the next message is the disconnect
            return await self._receive()
        if self._content_length > self._max_bytes:
            raise self._too_large()
        message = await (self._receive() if self._connection.body_complete else self._receive_in_time())
        self._count(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            raise RequestTimeout("the body did not arrive within the time limit for clients: send it faster") from None

    def _count(self, size: int) -> None:
        self._bytes += size
        self._memory.used_bytes += size
        if self._bytes > self._max_bytes:
            raise self._too_large()
        if self._memory.used_bytes > self._memory.max_bytes:
            raise Overloaded(1, "memory")

    def release(self) -> None:
        """Free the memory of the body, after the response."""
        self._memory.used_bytes -= self._bytes

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than the {self._max_bytes:,} bytes accepted: send fewer or smaller images"
        )


class _Inflate:
    def __init__(self, max_bytes: int) -> None:
        self.pending = b""
        self.done = False
        self._max_bytes = max_bytes
        self._bytes = 0
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)

    def piece(self, last: bool) -> bytes:
        """Decompress a piece of the pending bytes; with `last`, no more bytes follow them."""
        try:
            data = self._stream.decompress(self.pending, _PIECE)
        except zlib.error as error:
            raise BadRequest(f"the body does not match its Content-Encoding: {error}") from None
        if self._stream.unused_data:
            raise BadRequest("the body has more bytes after the end of the compressed data")
        self.pending = self._stream.unconsumed_tail
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            raise PayloadTooLarge(f"the body is larger than the {self._max_bytes:,} bytes accepted once decompressed")
        if last and not self.pending and len(data) < _PIECE:
            if not self._stream.eof:
                raise BadRequest("the compressed body is incomplete")
            self.done = True
        return data
