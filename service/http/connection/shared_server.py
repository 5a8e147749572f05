"""The server of a worker: it accepts connections from sockets that all workers share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from service.core.settings import Settings
from service.http.connection.server import Resources, Server
from service.http.connection.shared_listener import ConnectionBalance, CountedConnections, SharedListener
from service.telemetry.sheet import Sheet

_FIRST_REQUEST_SECONDS = 0.25
"""Time for the first request of a new connection to arrive, at the end of a worker."""
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class SharedSockets:
    """The listening sockets of all workers, and how one worker shares them with the others."""

    sockets: Sequence[socket.socket]
    """They listen already."""
    resources: Resources
    """Those of one worker."""
    own: Sheet
    """Sheet of this worker."""
    others: Sequence[Sheet]
    """Sheets of the other workers."""


class SharedServer(Server):
    """The server of a worker, which SIGTERM ends.

    Args:
        app: the application.
        settings: settings of the service.
        shared: the sockets to accept connections from.
        begin_shutdown: called when the shutdown begins.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, shared: SharedSockets, begin_shutdown: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(app, settings, shared.resources, begin_shutdown)
        self._shared = shared
        self._listeners: list[SharedListener] = []
        self.server_state.connections = CountedConnections(shared.own)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections."""
        await uvicorn.Server.startup(self, [])  # only the application
        self._keep_objects()
        balance = ConnectionBalance(self._shared.own, self._shared.others)
        connections = self.server_state.connections
        for listening in self._shared.sockets:
            listener = SharedListener(
                balance, listening, self._resources.tls, self._make_protocol, connections, self._limits
            )
            listener.start(self.config.backlog)
            self._listeners.append(listener)
        self.servers.extend(self._listeners)  # type: ignore[arg-type]
        self._shared.own.loading = False
        self._shared.own.accepting = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave new connections to the other workers, and finish the requests of those that were accepted."""
        self._shared.own.accepting = False
        for listener in self._listeners:
            listener.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_FIRST_REQUEST_SECONDS, self._shutdown_seconds)):
                await self._first_requests()
        await super().shutdown(sockets)

    async def _first_requests(self) -> None:
        """Wait until each connection has sent a request: a client does not expect a new connection to be closed."""
        while any(getattr(connection, "cycle", None) is None for connection in self.server_state.connections):
            await asyncio.sleep(_LOOK_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ignore SIGINT, which a terminal sends to all processes: the parent decides."""
        with super().capture_signals():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            yield

    def _end_process(self) -> None:
        os._exit(1)  # the parent logs it
