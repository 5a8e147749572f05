"""Clients that send requests all the time, and remember every answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from time import monotonic
from typing import Any, Self

LOST = 0
"""Status of a request whose connection ended without an answer."""
HUNG = -1
"""Status of a request without an answer in time."""
REFUSED = -2
"""Status of a connection that could not be made."""
_LIMIT_SECONDS = 30.0
_PAUSE_SECONDS = 0.02
"""Pause of a client after an answer that is not 200."""


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    status: int
    """Of HTTP, or one of those above."""
    sent: float
    """Monotonic time, seconds."""
    seconds: float
    client_port: int
    """Port of the client's side of the connection."""
    number: int
    """Number of the request, from 0."""
    content: Any
    """The value of `read` for the body of status 200; the head of other answers."""


class Load:
    """Kept-alive connections in a thread: each sends the next request once its last one is answered.

    Args:
        port: of the service on this machine.
        body: body of all requests.
        connections: number of connections.
        read: reads the body of an answer with status 200.
        path: path of the request.
        limit: number of requests of all connections together; None for no limit.
        headers: gives further header lines, by the number of the request.
    """

    def __init__(
        self,
        port: int,
        body: bytes,
        connections: int,
        read: Callable[[bytes], Any] = len,
        path: str = "/v1/classify",
        limit: int | None = None,
        headers: Callable[[int], str] = lambda number: "",
    ) -> None:
        self.answers: list[Answer] = []
        self._port, self._connections, self._read, self._left = port, connections, read, limit
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: service\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n"
        )
        self._body, self._headers = b"\r\n" + body, headers
        self._sent = 0
        self._ending = False
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending = True
        self.wait()

    def wait(self) -> None:
        """Wait until all connections have ended: with a limit, once it is reached."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def statuses(self) -> dict[int, int]:
        """Number of answers by status."""
        return dict(sorted(Counter(answer.status for answer in self.answers).items()))

    def lost(self) -> list[Answer]:
        """Requests without an answer."""
        return [answer for answer in self.answers if answer.status <= 0]

    def _run(self) -> None:
        try:
            asyncio.run(self._connect_all())
        except BaseException as error:
            self._failure = error

    async def _connect_all(self) -> None:
        await asyncio.gather(*(self._repeat() for _ in range(self._connections)))

    async def _repeat(self) -> None:
        while self._goes_on():
            started = monotonic()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.answers.append(Answer(REFUSED, started, monotonic() - started, 0, -1, None))
                await _pause()
                continue
            client_port = writer.get_extra_info("sockname")[1]
            try:
                kept = True
                while kept and self._goes_on():
                    kept = await self._ask(reader, writer, client_port)
            finally:
                writer.close()

    def _goes_on(self) -> bool:
        return not self._ending and (self._left is None or self._left > 0)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client_port: int) -> bool:
        """Send a request. Returns whether the connection can be used again."""
        if self._left is not None:
            self._left -= 1
        number, self._sent = self._sent, self._sent + 1
        sent = monotonic()
        writer.write((self._head + self._headers(number)).encode() + self._body)
        status, content, kept = LOST, None, False
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                body = await reader.readexactly(int(head.partition("content-length:")[2].split(None, 1)[0]))
            status = int(head.split(" ", 2)[1])
            content = self._read(body) if status == 200 else head
            kept = "\r\nconnection: close" not in head
        except TimeoutError:
            status = HUNG
        except (OSError, EOFError):
            pass
        self.answers.append(Answer(status, sent, monotonic() - sent, client_port, number, content))
        if status != 200:
            await _pause()
        return kept


async def _pause() -> None:
    """Wait, so that refused requests are not sent again at once."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=_PAUSE_SECONDS)
