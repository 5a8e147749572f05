"""A listening socket that several processes share, so that each gets its part of the connections."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from service.http.connection.listener import Listener
from service.telemetry.sheet import Sheet

_RETRY_SECONDS = 0.005
"""Pause before a worker looks again at a connection that it left to others."""
_LEAVE_SECONDS = 0.05
"""Time after which it accepts this connection."""
_SILENT_SECONDS = 0.25
"""Age of a heartbeat above which a worker is not expected to accept connections: it is stopped or very late."""


class ConnectionBalance:
    """Tells whether this worker should accept the next connection.

    Args:
        own: sheet of this worker.
        others: sheets of the other workers.
    """

    def __init__(self, own: Sheet, others: Sequence[Sheet]) -> None:
        self._own = own
        self._others = others

    def should_accept(self) -> bool:
        """Whether no other worker that accepts connections has fewer."""
        connections = self._own.connections
        since = time.monotonic() - _SILENT_SECONDS
        return not any(
            other.connections < connections and other.accepting and other.heartbeat > since for other in self._others
        )


class CountedConnections(set[Any]):
    """Connections, whose number is in the sheet of the worker."""

    def __init__(self, sheet: Sheet) -> None:
        super().__init__()
        self._sheet = sheet

    def add(self, connection: Any) -> None:
        super().add(connection)
        self._sheet.connections = len(self)

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self._sheet.connections = len(self)


class SharedListener(Listener):
    """Accepts one connection at a time, and leaves it to workers with fewer connections for some milliseconds.

    An accept loop of asyncio or libuv takes all connections that wait, so that the first worker that wakes up would
    have all of them.

    Args:
        balance: tells whether this worker should accept the next connection.
        listener: arguments of `Listener`.
    """

    def __init__(self, balance: ConnectionBalance, *listener: Any) -> None:
        super().__init__(*listener)
        self._balance = balance

    def stop(self) -> None:
        """Accept no more connections. Those that were accepted stay, with their handshakes."""
        self._accepting.cancel()

    async def _wait_for_connection(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        pending = select.poll()
        pending.register(listening, select.POLLIN)
        await _readable(loop, listening)
        first = loop.time()
        while not self._balance.should_accept() and loop.time() - first < _LEAVE_SECONDS:
            await asyncio.sleep(_RETRY_SECONDS)
            if not pending.poll(0):  # another worker took it
                await _readable(loop, listening)
                first = loop.time()

    async def _accept_one(self, listening: socket.socket) -> socket.socket | None:
        await self._wait_for_connection(listening)
        try:
            client, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another worker took it, or the client has disconnected
            return None
        client.setblocking(False)
        return client


async def _readable(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
    """Wait until a connection waits on a listening socket."""
    arrived = loop.create_future()

    def notice() -> None:
        if not arrived.done():
            arrived.set_result(None)

    loop.add_reader(listening, notice)
    try:
        await arrived
    finally:
        loop.remove_reader(listening)
