"""The connection of a worker to the engine process."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from typing import Any

from service.core.errors import NotYetAvailable
from service.messages import wire
from service.messages.wire import Kind
from service.remote.arena import Arena
from service.remote.channel import Channel

log = logging.getLogger(__name__)

NO_ENGINE = "the engine process is being started: try again in a moment"
_RETRY_SECONDS = 0.05


class EngineConnection:
    """Connects to the engine process, and connects again when the connection was lost.

    Args:
        address: name of the socket of the engine process.
        lost: called when the connection was lost, before the requests that wait get an error.
    """

    def __init__(self, address: str | bytes, lost: Callable[[], None]) -> None:
        self._address = address
        self._when_lost = lost
        self.arena = Arena()
        self.channel: Channel | None = None
        """None without a connection."""
        self.receivers: dict[Kind, Callable[[memoryview], None]] = {Kind.FAILURE: self._take_failure}
        """Called with the body of each frame of their kind."""
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        """Answers that are awaited, by the number of their request."""
        self._connecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect to the engine process, again and again until `close`."""
        self._connecting = asyncio.create_task(self._connect())

    async def close(self) -> None:
        """End the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self.channel is not None:
            self.channel.close()
        self.arena.close()

    def begin(self) -> tuple[int, asyncio.Future[Any]]:
        """The number of a new request, and its answer. It waits for the answer, an error or `end`."""
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        return number, future

    def answer(self, number: int, value: Any) -> None:
        """Set the answer of a request, if it is awaited."""
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_result(value)

    def fail(self, number: int, content: dict[str, Any]) -> None:
        """Set the error of a request, as JSON, if its answer is awaited."""
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_exception(wire.make_error(content))

    def end(self, number: int) -> None:
        """Wait no longer for an answer."""
        self._waiting.pop(number, None)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.setblocking(False)
            lost = asyncio.Event()
            try:
                await loop.sock_connect(connection, self._address)
                socket.send_fds(connection, [bytes([wire.VERSION])], [self.arena.file])
                channel = self.channel = Channel(self._receive, lost.set)  # it receives before the next line ends
                await loop.create_unix_connection(lambda made=channel: made, sock=connection)  # type: ignore[misc]
            except OSError as error:
                log.debug("the engine process is not reached: %s", error)
                self.channel = None
                connection.close()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await lost.wait()
            self._lose()

    def _lose(self) -> None:
        """Answer the requests that the engine process has not answered."""
        self.channel = None
        self._when_lost()
        waiting = [*self._waiting.values()]
        self._waiting.clear()
        for each in waiting:
            if not each.done():
                each.set_exception(NotYetAvailable("the engine process ended: try again in a moment"))

    def _receive(self, kind: Kind, body: memoryview) -> None:
        self.receivers[kind](body)

    def _take_failure(self, body: memoryview) -> None:
        self.fail(*wire.read_json(body))
