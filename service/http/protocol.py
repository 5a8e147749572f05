"""HTTP connections with limits on the time that a slow or silent client may take.

uvicorn closes connections that are idle between two requests. It sets no limit for a client that never sends a request,
that sends one a byte at a time, or that does not read the response.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.coalescing_transport import CoalescingTransport
from service.http.connection_state import connection_state


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits.

    Args:
        max_connections: number of connections above which the first request of a new one is refused.
        client_timeout_seconds: time limit for the client to send the head of a request, to send the rest of a body that
            is no longer needed, and to read a response. `LimitedBody` limits the time for a body that is needed.
    """

    def __init__(self, *args: Any, max_connections: int, client_timeout_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_connections = max_connections
        self._client_timeout_seconds = client_timeout_seconds
        self._over_limit = False
        self._answering: RequestResponseCycle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        """Runs while the client must send."""
        self._read_timer: asyncio.TimerHandle | None = None
        """Runs while the client must read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._output = CoalescingTransport(transport)
        super().connection_made(self._output)  # type: ignore[arg-type]
        self._over_limit = len(self.connections) > self._max_connections
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_send_timer()
        self._stop_read_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
            for callback in connection_state(self._answering.scope).on_disconnect:  # type: ignore[arg-type]
                callback()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # the head of the next request is incomplete
            self._start_send_timer()

    def on_headers_complete(self) -> None:
        self._stop_send_timer()
        if self._over_limit:
            connection_state(self.scope).over_limit = True  # type: ignore[arg-type]
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # uvicorn reports a lost connection to the request that was received last, which may still wait in the pipeline.
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        connection_state(self.scope).body_complete = True  # type: ignore[arg-type]
        super().on_message_complete()
        self._stop_send_timer()

    def on_response_complete(self) -> None:
        self._output.flush()
        super().on_response_complete()
        if self.cycle.more_body:
            self._start_send_timer()
            if self.expect_100_continue:  # without the body, the next request would be read as the body of this one
                self.transport.close()
        if self.transport.is_closing():
            self._start_read_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_read_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_read_timer()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # `close` would wait until the client has read the response
            self._abort()
        super().timeout_keep_alive_handler()

    def _start_send_timer(self) -> None:
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self._client_timeout_seconds, self._abort)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _start_read_timer(self) -> None:
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self._client_timeout_seconds, self._abort)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _abort(self) -> None:
        # A reset also drops the responses in the kernel's buffers, which may hold megabytes until the client reads.
        client: socket.socket = self.transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
