"""Passes what a client sends to the parser, no faster than the requests are answered."""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools
from uvicorn.protocols.http.flow_control import FlowControl

from service.http.connection.coalescing_transport import CoalescingTransport

PIECE_BYTES = 2048
"""Most bytes that the parser takes at a time, other than bytes of a body: at most some 100 requests, 500 headers or
350 chunks, which take one or two milliseconds."""

_END = b"\r\n\r\n"


class RequestParser(Protocol):
    """Parses the bytes; the connection."""

    body_bytes: int
    """Bytes of the body of the current request that were parsed."""

    def parse(self, data: bytes | memoryview) -> None:
        """Parse the next bytes."""

    def body_left(self) -> int:
        """Bytes of the current body that are still to come, if its length is known; otherwise 0."""

    def head_left(self) -> int:
        """Bytes after which a head, or what a chunked body has beside data, is too large; at least 1."""

    def request_waits(self) -> bool:
        """Whether a request was parsed that waits for the response to an earlier one."""


class RequestInput(FlowControl):
    """uvicorn's flow control, which also stops the parser.

    uvicorn parses all that was read, and reads on when a request is answered or waits for its body: a client that only
    sends requests fills the memory. Here, the bytes after a request that waits are neither parsed nor read.

    Args:
        transport: transport of the connection.
        parser: parses the bytes.
        loop: the event loop.
    """

    def __init__(self, transport: CoalescingTransport, parser: RequestParser, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(transport)  # type: ignore[arg-type]
        self._parser = parser
        self._loop = loop
        self._stopped = False
        self._unparsed = memoryview(b"")
        self._next_turn: asyncio.Handle | None = None

    def feed(self, data: bytes) -> None:
        """Parse bytes that were read, up to the next request that waits."""
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        if not self._stopped and self._next_turn is None:
            self._parse()

    def drop(self) -> None:
        """Forget what is not parsed."""
        self._unparsed = memoryview(b"")
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

    def pause_reading(self) -> None:
        """Stop: a body is large, or a request waits."""
        self._stopped = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """Continue, unless a request still waits."""
        if not self._stopped or self._parser.request_waits():
            return
        self._stopped = False
        if self._unparsed:
            self._wait_for_turn()  # uvicorn starts the next request first
        else:
            super().resume_reading()

    def _parse(self) -> None:
        self._next_turn = None
        left = self._parser.body_left()
        while self._unparsed and not self._stopped:
            size = left or self._next_size()
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            before = self._parser.body_bytes
            self._parser.parse(piece)
            data, left = self._parser.body_bytes - before, self._parser.body_left()
            if self._unparsed and not left and 2 * data < len(piece):
                # Heads and small chunks take much more time per byte than a body.
                if not self._stopped:
                    self._wait_for_turn()
                super().pause_reading()
                return
        if self._unparsed:
            super().pause_reading()
        elif not self._stopped:
            super().resume_reading()

    def _next_size(self) -> int:
        """Bytes to parse next: up to the end of a head, so that a body of known length is parsed in one piece."""
        size = min(PIECE_BYTES, self._parser.head_left())
        end = bytes(self._unparsed[:size]).find(_END)
        return size if end < 0 else end + len(_END)

    def _wait_for_turn(self) -> None:
        if self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._parse)


def make_parser(connection: object) -> httptools.HttpRequestParser:
    """A parser that calls the methods of a connection."""
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does, so that it is not an error
    return parser
