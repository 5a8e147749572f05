"""A listening socket for TLS, whose connections count and have a time limit from the start."""

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


class TlsListener:
    """Accepts connections and does the TLS handshakes, in place of an `asyncio.Server`.

    A server of asyncio makes a connection known only after its handshake: until then, it is in no count.

    Args:
        listening: the bound socket.
        context: certificate and key.
        make_protocol: makes the protocol of a connection.
        connections: protocols of all connections.
        limits: limits of handshakes.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
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
        self._start(self._accept(listening))

    def close(self) -> None:
        """Accept no more connections, and end the handshakes."""
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until all handshakes have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                try:
                    client, _ = await asyncio.get_running_loop().sock_accept(listening)
                except OSError as error:
                    log.error("a connection cannot be accepted: %s", error)
                    await asyncio.sleep(_FULL_SECONDS)
                    continue
                above = len(self._connections) + 1 - self._limits.max_connections
                if above > REFUSED_CONNECTIONS:
                    client.close()
                else:
                    seconds = self._limits.seconds
                    self._start(self._shake_hands(client, min(REFUSED_SECONDS, seconds) if above > 0 else seconds))

    async def _shake_hands(self, client: socket.socket, seconds: float) -> None:
        protocol = self._make_protocol()
        self._connections.add(protocol)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, client, ssl=self._context, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=seconds
            )
        except OSError:  # also errors of TLS, and the time limit
            self._connections.discard(protocol)
        except BaseException:
            self._connections.discard(protocol)
            raise
