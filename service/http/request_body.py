"""The body of a request as it arrives: counted, limited in time, and decompressed piece by piece."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from service.core.body_memory import BodyMemory
from service.core.errors import PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from service.http.connection_state import connection_state
from service.http.inflate import Inflate
from service.telemetry.request_context import find_header


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header with a lower-case name."""
    return find_header(scope["headers"], name, default)


def content_length(scope: Scope) -> int:
    """The length of the body in bytes as the client states it, or 0; the server has checked that it is a number."""
    # Python refuses numbers of thousands of digits, also if they are zeros.
    return int(header(scope, b"content-length").strip().lstrip("0") or 0)


def path(scope: Scope) -> str:
    """The path of a request, without the root path of the service."""
    whole: str = scope["path"]
    return whole.removeprefix(scope.get("root_path", ""))


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
        self._content_length = content_length(scope)
        self._connection = connection_state(scope)
        self._connection.memory = memory
        self._receive = receive
        self._memory = memory
        self._max_bytes = max_bytes
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._sent = 0
        self._held = 0
        self._complete = False
        self._inflate: Inflate | None = None
        encoding = header(scope, b"content-encoding").strip().lower() or "identity"
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = Inflate(max_decompressed)
        elif encoding != "identity":
            raise UnsupportedMediaType(f"Content-Encoding {encoding!r} is not supported: send gzip, deflate or none")

    async def receive(self) -> Message:
        """Receive the next piece.

        Raises:
            PayloadTooLarge: the body is too large, by its Content-Length, as sent or decompressed.
            RequestTimeout: the body did not arrive in time.
            Overloaded: the bodies of all requests together take too much memory.
            BadRequest: the body cannot be decompressed, or its chunks cannot be parsed.
            HeadTooLarge: the trailers or the chunk extensions are too large.
        """
        inflate = self._inflate
        if inflate is None or inflate.done:
            message = await self._next()
            self._hold(len(message.get("body", b"")))
            return message
        while inflate.waits and not self._complete:
            message = await self._next()
            if message["type"] == "http.disconnect":
                return message
            inflate.pending += message.get("body", b"")
        piece = await inflate.piece(self._complete)
        self._hold(len(piece))
        return {"type": "http.request", "body": piece, "more_body": not inflate.done}

    async def _next(self) -> Message:
        if self._complete:  # the next message is the disconnect
            return await self._receive()
        if self._content_length > self._max_bytes:
            raise self._too_large()
        message = await (self._receive() if self._connection.body_complete else self._receive_in_time())
        if self._connection.refusal is not None:
            raise self._connection.refusal
        self._sent += len(message.get("body", b""))
        if self._sent > self._max_bytes:
            raise self._too_large()
        self._complete = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            raise RequestTimeout("the body did not arrive within the time limit for clients: send it faster") from None

    def _hold(self, size: int) -> None:
        """Count bytes in memory: those of a piece after decompression."""
        self._held += size
        self._memory.hold(size)

    def release(self) -> None:
        """Free the memory of the body, and of the response, after the response."""
        self._memory.release(self._held + self._connection.response_bytes)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than the {self._max_bytes:,} bytes accepted: send fewer or smaller images"
        )
