"""A client's connection, and how long a slow or silent client may keep it.

uvicorn closes connections that are idle between two requests. Those that never send one, that send it a byte at a
time, or that do not read their answer would stay for ever.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.coalescing_transport import CoalescingTransport
from service.http.connection_timeout import ConnectionTimeout
from service.http.disconnect import HANG_UP
from service.http.request_body import BODY_COMPLETE

OVER_CONNECTION_LIMIT = "resnet.crowded"
"""ASGI extension of requests on a connection that is one too many: to be answered with 503."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits.

    Args:
        max_connections: those that come when there are more have their first request refused.
        client_timeout_seconds: time to send the head of a request, to send the rest of a body that is not wanted any more, and
            to read an answer. The bodies that are wanted have theirs from `incoming.Body`.
    """

    def __init__(self, *args: Any, max_connections: int, client_timeout_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_connections = max_connections
        self._crowded = False
        self._answering: RequestResponseCycle | None = None
        self._sends = ConnectionTimeout(self.loop, client_timeout_seconds, self._abort)
        self._reads = ConnectionTimeout(self.loop, client_timeout_seconds, self._abort)
        self._idles = ConnectionTimeout(self.loop, self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._output = CoalescingTransport(transport)
        super().connection_made(self._output)  # type: ignore[arg-type]
        self._crowded = len(self.connections) > self._max_connections
        self._idles.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        for patience in (self._sends, self._reads, self._idles):
            patience.close()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
            watchers: Any = self._answering.scope["extensions"][HANG_UP]
            for leave in watchers:
                leave()

    def data_received(self, data: bytes) -> None:
        self._idles.end()
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # what came is not yet a request
            self._sends.begin()

    def on_headers_complete(self) -> None:
        self._sends.end()
        extensions: dict[str, Any] = {HANG_UP: []}
        if self._crowded:
            extensions[OVER_CONNECTION_LIMIT] = {}
        self.scope["extensions"] = extensions
        super().on_headers_complete()
        # uvicorn's is a bytearray, which is copied twice; to add to bytes that are empty copies nothing.
        self.cycle.body = b""  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # uvicorn tells only the last request that has come of a lost connection; it may not be this one's turn yet.
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        self.scope["extensions"][BODY_COMPLETE] = {}
        super().on_message_complete()
        self._sends.end()

    def on_response_complete(self) -> None:
        """In place of uvicorn's, which sets a timer."""
        self._output.flush()
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._idles.begin()
        if self.cycle.more_body:
            self._sends.begin()
            if self.expect_100_continue:  # the client may leave the body out: the next request would be taken for it
                self.transport.close()
        if self.transport.is_closing():
            self._reads.begin()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reads.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._reads.end()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for the client to read that
            self._abort()
        super().timeout_keep_alive_handler()

    def _abort(self) -> None:
        # With a reset the system forgets the answers too, megabytes that it would keep for the client to read.
        client: socket.socket = self.transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
