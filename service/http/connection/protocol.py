"""HTTP connections with limits on what a hostile, slow or silent client may take.

uvicorn closes connections that are idle between two requests. It sets no limit for heads, for requests that are sent
before the last one is answered, and for the time that a client takes to send a request and to read the response.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.core.errors import BadRequest, HeadTooLarge, Overloaded, ServiceError
from service.http.connection.coalescing_transport import CoalescingTransport
from service.http.connection.request_input import PIECE_BYTES, RequestInput, make_parser
from service.http.connection.timer import Timer
from service.http.connection_state import connection_state
from service.http.request_body import content_length

MAX_HEAD_BYTES = 64 * 1024
"""Largest head of a request; also of the trailers and the chunk extensions of a body together."""
MAX_HEADERS = 1000
"""A header of 4 bytes takes 170 bytes of memory."""
REFUSED_CONNECTIONS = 128
"""Connections above the limit that get a response, 503 or that of a probe. Further ones are reset."""
REFUSED_SECONDS = 2.0
"""Time limit for the client of such a connection to send its request, and to read the response."""
_CHUNK_FRAMING = 20
"""Bytes of a chunk that are not its data, without extensions."""
_GONE_SECONDS = 0.2
"""Time after which a client that has ended its side of the connection is checked: it may have closed both sides."""
_DISCARD_SECONDS = 0.02
"""Pause after each read of bytes that are not needed: reading them as fast as possible would take all the time."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_UNREADABLE = b"GET /unreadable HTTP/1.1\r\nConnection: close\r\n\r\n"
"""Takes the place of a request whose head cannot be parsed."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits.

    Args:
        max_connections: number of connections above which requests of a new one are refused.
        refused: the connections above this number.
        client_timeout_seconds: time limit for the client to send the head of a request, to send the rest of a body that
            is no longer needed, and to read a response. `LimitedBody` limits the time for a body that is needed.
    """

    def __init__(
        self, *args: Any, max_connections: int, refused: set[Any], client_timeout_seconds: float, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.body_bytes = 0
        self._max_connections = max_connections
        self._refused = refused
        self._refusal: ServiceError | None = None
        """Why every further request of this connection is refused."""
        self._discards = False
        """Whether what the client sends is not parsed any more."""
        self._overhead_bytes = 0
        """Bytes of the current head, or bytes of the current body that are not data."""
        self._answering: RequestResponseCycle | None = None
        self._send_timer = Timer(self.loop, client_timeout_seconds, self._abort)
        """Runs while the client must send."""
        self._read_timer = Timer(self.loop, client_timeout_seconds, self._abort)
        """Runs while the client must read."""
        self._gone_timer: asyncio.TimerHandle | None = None
        """Runs while a client that sends no more waits for a response."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._output = CoalescingTransport(transport, self._lingers)
        super().connection_made(self._output)  # type: ignore[arg-type]
        self.flow = self._input = RequestInput(self._output, self, self.loop)
        if len(self.connections) <= self._max_connections:
            self._start_keep_alive_timer()
            return
        self.connections.discard(self)
        self._refused.add(self)
        if len(self._refused) > REFUSED_CONNECTIONS:
            self._output.abort()
        self._refusal = Overloaded(1, "connections")
        for timer in (self._send_timer, self._read_timer):
            timer.seconds = min(REFUSED_SECONDS, timer.seconds)
        self._send_timer.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._send_timer.stop()
        self._read_timer.stop()
        if self._gone_timer is not None:
            self._gone_timer.cancel()
        self._input.drop()
        self._refused.discard(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
            connection_state(self._answering.scope).disconnect()  # type: ignore[arg-type]

    def shutdown(self) -> None:
        if self.transport is not None:  # None during the TLS handshake, which the listener ends
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._discards:
            self._output.pause_reading()
            self.loop.call_later(_DISCARD_SECONDS, self._output.resume_reading)
            return
        if len(data) > PIECE_BYTES or self._overhead_bytes or self._input.read_paused:
            self._input.feed(data)
        else:
            self.parse(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer the requests that are complete. Returns whether the connection stays open for that."""
        if self.pipeline and self.cycle.more_body:  # this request can never be complete
            assert self._answering is not None
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answering
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or self._discards or self.scheme == "https":
            return False
        cycle.keep_alive = False
        self._gone_timer = self.loop.call_later(_GONE_SECONDS, self._ask_whether_gone, True)
        return True

    def parse(self, data: bytes | memoryview) -> None:
        """Parse the next bytes."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"the request is not valid HTTP: {error or 'the path cannot be parsed'}"))
            return
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope or cycle.more_body:
            self._check_incomplete(len(data))
        elif cycle.response_complete:  # the rest of a body that was not needed
            self._start_keep_alive_timer()

    def body_left(self) -> int:
        """Bytes of the current body that are still to come, if its length is known; otherwise 0."""
        if self.cycle is None or self.cycle.scope is not self.scope or not self.cycle.more_body:
            return 0
        return max(0, content_length(self.scope) - self.body_bytes)  # type: ignore[arg-type]

    def head_left(self) -> int:
        """Bytes after which a head, or what a chunked body has beside data, is too large; at least 1."""
        return max(1, MAX_HEAD_BYTES - self._overhead_bytes)

    def request_waits(self) -> bool:
        """Whether a request was parsed that waits for the response to an earlier one."""
        return bool(self.pipeline)

    def _check_incomplete(self, size: int) -> None:
        self._overhead_bytes += size
        if self._overhead_bytes >= MAX_HEAD_BYTES or (self.headers and len(self.headers) > MAX_HEADERS):
            self._refuse(HeadTooLarge(MAX_HEAD_BYTES, MAX_HEADERS))
        elif self.cycle is None or self.cycle.response_complete:
            self._send_timer.start()
            if self.cycle is not None and self.cycle.more_body:
                self._input.pause_reading()
                self.loop.call_later(_DISCARD_SECONDS, self._input.resume_reading)

    def _ignore_upgrade(self, rest: bytes | memoryview) -> None:
        """Parse a request again, without the headers that make the parser skip its body, and then the rest.

        A server may ignore an upgrade (RFC 9110, section 7.8). JDK's client asks for one in every first request.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(BadRequest("CONNECT is for proxies: the service is none"))
            return
        version = self.parser.get_http_version().encode()
        headers = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
        self.parser = make_parser(self)
        self.parser.feed_data(b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, headers))
        self.parse(rest)

    def _refuse(self, error: ServiceError) -> None:
        """Answer a request that cannot be parsed further with an error, after those before it, and close."""
        self._discards = True
        self._send_timer.stop()
        self._input.drop()
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and cycle.more_body:
            connection_state(cycle.scope).refusal = error  # type: ignore[arg-type]
            cycle.keep_alive = False
            cycle.message_event.set()
            if cycle.response_complete:
                self.transport.close()
        else:
            self._refusal = error
            self.parser = make_parser(self)
            self.parser.feed_data(_UNREADABLE)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._send_timer.stop()
        self.body_bytes = self._overhead_bytes = 0
        if self._refusal is not None:
            connection_state(self.scope).refusal = self._refusal  # type: ignore[arg-type]
        super().on_headers_complete()
        self.headers = []  # trailers are not headers
        if self._refusal is not None:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # uvicorn reports a lost connection to the request that was received last, which may still wait in the pipeline.
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        self._overhead_bytes -= len(body) + _CHUNK_FRAMING
        super().on_body(body)

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:  # the head of an upgrade
            return
        connection_state(cycle.scope).body_complete = True  # type: ignore[arg-type]
        cycle.more_body = False
        cycle.message_event.set()
        self._overhead_bytes = 0
        self._send_timer.stop()
        if self._input.read_paused:  # its body is large: a disconnect is only noticed while the connection is read
            self.loop.call_soon(self._input.resume_reading)

    def on_response_complete(self) -> None:
        cycle = self._answering
        assert cycle is not None
        self._output.flush()
        super().on_response_complete()
        if cycle.more_body:
            self._send_timer.start()
            if self.expect_100_continue:  # without the body, the next request would be read as the body of this one
                self.transport.close()
        if self.transport.is_closing():
            self._read_timer.start()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._read_timer.stop()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # `close` would wait until the client has read the response
            self._abort()
        super().timeout_keep_alive_handler()

    def _ask_whether_gone(self, first: bool) -> None:
        """Abort the connection if the client has closed both sides of it.

        Only a reset by its kernel, after it was sent something, reveals that. An interim response may be sent at any
        time (RFC 9110, section 15.2).
        """
        if self._socket().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._abort()
            return
        cycle = self._answering
        assert cycle is not None
        if first and not cycle.response_started and cycle.scope["http_version"] == "1.1":
            self._output.write(_CONTINUE)
        self._gone_timer = self.loop.call_later(_GONE_SECONDS / 2, self._ask_whether_gone, False)

    def _lingers(self) -> bool:
        """Whether to read on after the last response: a close while the client sends would destroy the response."""
        sends = self._answering is not None and self._answering.more_body
        if self._gone_timer is not None or not (sends or self._discards or self._input.read_paused):
            return False
        self._discards = True
        self._input.drop()
        self._read_timer.start()
        return True

    def _start_keep_alive_timer(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _abort(self) -> None:
        # A reset also drops the responses in the kernel's buffers, which may hold megabytes until the client reads.
        self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _socket(self) -> socket.socket:
        client: socket.socket = self.transport.get_extra_info("socket")
        return client
