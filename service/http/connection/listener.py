"""A listening socket whose connections count and have a time limit from the start, before their TLS handshake."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.http.connection.protocol import REFUSED_CONNECTIONS, REFUSED_SECONDS

log = logging.getLogger(__name__)

_FULL_SECONDS = 1.0
"""Pause if no file descriptor is left for a connection."""


@dataclass(frozen=True)
class HandshakeLimits:
    """Limits of handshakes."""

    max_connections: int
    """Connections above which only some more are accepted, to answer them with 503."""
    seconds: float
    """Time limit of a handshake."""


class Listener:
    """Accepts connections and does the TLS handshakes, in place of an `asyncio.Server`.

    A server of asyncio makes a connection known only after its handshake: until then, it is in no count.

    Args:
        listening: the bound socket.
        context: certificate and key; None without TLS.
        make_protocol: makes the protocol of a connection.
        connections: protocols of all connections.
        limits: limits of handshakes.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext | None,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: set[Any],
        limits: HandshakeLimits,
    ) -> None:
        self.sockets = [listening]
        self._context = context
        self._make_protocol = make_protocol
        self._connections = connections
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, backlog: int) -> None:
        """Listen."""
        (listening,) = self.sockets
        listening.setblocking(False)
        listening.listen(backlog)
        self._accepting = self._start(self._accept(listening))

    def close(self) -> None:
        """Accept no more connections, and end the handshakes."""
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until all handshakes have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                try:
                    client = await self._accept_one(listening)
                except OSError as error:
                    log.error("a connection cannot be accepted: %s", error)
                    await asyncio.sleep(_FULL_SECONDS)
                    continue
                if client is not None:
                    self._admit(client)

    async def _accept_one(self, listening: socket.socket) -> socket.socket | None:
        """Accept a connection; None if there is none after all."""
        client, _ = await asyncio.get_running_loop().sock_accept(listening)
        return client

    def _admit(self, client: socket.socket) -> None:
        """Start the handshake of an accepted connection, or close it if there are too many."""
        above = len(self._connections) + 1 - self._limits.max_connections
        if above > REFUSED_CONNECTIONS:
            client.close()
            return
        seconds = min(REFUSED_SECONDS, self._limits.seconds) if above > 0 else self._limits.seconds
        self._start(self._shake_hands(client, seconds))

    async def _shake_hands(self, client: socket.socket, seconds: float) -> None:
        protocol = self._make_protocol()
        self._connections.add(protocol)
        limit = None if self._context is None else seconds  # asyncio allows a time limit with TLS only
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, client, ssl=self._context, ssl_handshake_timeout=limit, ssl_shutdown_timeout=limit
            )
        except OSError:  # also errors of TLS, and the time limit
            self._connections.discard(protocol)
        except BaseException:
            self._connections.discard(protocol)
            raise
