"""A client's connection, and how long a slow or silent client may keep it.

uvicorn closes connections that are idle between two requests. Those that never send one, that send it a byte at a
time, or that do not read their answer would stay for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CROWDED = "resnet.crowded"
"""ASGI extension of requests on a connection that is one too many: to be answered with 503."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits.

    Args:
        max_connections: those that come when there are more have their first request refused.
        client_seconds: time to send the head of a request, to send the rest of a body that is not wanted any more, and
            to read an answer. The bodies that are wanted have theirs from `incoming.Body`.
    """

    def __init__(self, *args: Any, max_connections: int, client_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_connections = max_connections
        self._client_seconds = client_seconds
        self._crowded = False
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._crowded = len(self.connections) > self._max_connections
        # uvicorn begins to count idle time only behind the first answer.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._patience is None and self._owes_a_request():
            self._lose_patience_later()

    def on_headers_complete(self) -> None:
        self._relax()
        if self._crowded:
            self.scope["extensions"] = {CROWDED: {}}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._relax()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and self.expect_100_continue:
            self.transport.close()  # the client may leave the body out: the next request would be taken for it
        if self._patience is None and (self.transport.is_closing() or self.cycle.more_body):
            self._lose_patience_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._lose_patience_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._relax()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for the client to read that
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _owes_a_request(self) -> bool:
        """Whether the client has begun a request and nothing waits to be answered."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def _lose_patience_later(self) -> None:
        self._relax()
        self._patience = self.loop.call_later(self._client_seconds, self.transport.abort)

    def _relax(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
