"""A request's body on its way in: counted, timed, and decompressed no further than is taken."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from service.core.errors import BadRequest, Overloaded, PayloadTooLarge, RequestTimeout, UnsupportedMediaType

BODY_COMPLETE = "resnet.arrived"
"""ASGI extension of requests whose body the server has in whole: there is nothing to wait for."""

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_PIECE = 256 * 1024
"""Bytes decompressed at a time, about a millisecond: meanwhile the event loop serves nobody."""


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header of a name, which is in lower case. Starlette's own way takes four times as long."""
    for given, value in scope["headers"]:
        if given == name:
            text: str = value.decode("latin-1")
            return text
    return default


def path(scope: Scope) -> str:
    """Of a request, below the path that the service itself is under."""
    whole: str = scope["path"]
    return whole.removeprefix(scope.get("root_path", ""))


@dataclass
class BodyMemory:
    """Bytes of all bodies that have come in and whose requests are not answered."""

    max_bytes: int
    now: int = 0


class LimitedBody:
    """Stands between the server and the application as ASGI `receive`, until `release`.

    Args:
        scope: of the request.
        receive: of the server.
        held: shared by all bodies.
        max_bytes: most bytes as they are sent.
        max_decompressed: most bytes once the Content-Encoding is undone.
        seconds: until the last byte must have come.

    Raises:
        UnsupportedMediaType: a Content-Encoding that is not taken.
    """

    def __init__(
        self, scope: Scope, receive: Receive, held: BodyMemory, *, max_bytes: int, max_decompressed: int, seconds: float
    ) -> None:
        self._announced = int(header(scope, b"content-length", "0"))
        self._extensions = scope.get("extensions", {})
        self._receive = receive
        self._held = held
        self._max_bytes = max_bytes
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._bytes = 0
        self._complete = False
        self._inflate: _Inflate | None = None
        encoding = header(scope, b"content-encoding").strip().lower() or "identity"
        if encoding in ("gzip", "deflate"):
            self._inflate = _Inflate(max_decompressed)
        elif encoding != "identity":
            raise UnsupportedMediaType(f"Content-Encoding {encoding!r} is not taken: send gzip, deflate or none")

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            PayloadTooLarge: too many bytes, announced, sent or decompressed.
            RequestTimeout: the time is up.
            Overloaded: the bodies of all requests together take too much memory.
            BadRequest: it cannot be decompressed.
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
        if self._complete:  # what comes now is that the client goes
            return await self._receive()
        if self._announced > self._max_bytes:
            raise self._too_large()
        message = await (self._receive() if BODY_COMPLETE in self._extensions else self._in_time())
        self._count(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        return message

    async def _in_time(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            raise RequestTimeout("the body did not come within the time that a client has: send it faster") from None

    def _count(self, size: int) -> None:
        self._bytes += size
        self._held.now += size
        if self._bytes > self._max_bytes:
            raise self._too_large()
        if self._held.now > self._held.max_bytes:
            raise Overloaded(1, "memory")

    def release(self) -> None:
        """The request has been answered."""
        self._held.now -= self._bytes

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
        """Decompress some of what is pending; `last` tells that nothing more will be."""
        try:
            data = self._stream.decompress(self.pending, _PIECE)
        except zlib.error as error:
            raise BadRequest(f"the body is not what its Content-Encoding says: {error}") from None
        if self._stream.unused_data:
            raise BadRequest("there is more behind the end of the compressed body")
        self.pending = self._stream.unconsumed_tail
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            raise PayloadTooLarge(f"the body is larger than the {self._max_bytes:,} bytes accepted once decompressed")
        if last and not self.pending and len(data) < _PIECE:
            if not self._stream.eof:
                raise BadRequest("the compressed body is incomplete")
            self.done = True
        return data
