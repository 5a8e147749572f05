"""A client with little CPU time of its own, so that the service is measured even on a small machine.

Connections are asyncio protocols. They write requests that were made before, and read only the status and the length of
an answer. The functions of this module run in separate processes.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

Clock = Callable[[], float]

_TIMING = b'"timing":'
_READY_CONNECTIONS = 32
"""Connections of the open loop that are opened before it begins: opening one takes longer than some answers."""
_MOST_CONNECTIONS = 512
"""Limit of the open loop: `select` takes no file number above 1023. Later requests wait, and their wait counts."""


@dataclass
class Outcome:
    """The answers to the requests. Lists have one item per answer, in the order of arrival."""

    started: list[float] = field(default_factory=list)
    """Time at which the request was sent or, in an open loop, was due; seconds from the start."""
    seconds: list[float] = field(default_factory=list)
    """Seconds from that time to the last byte of the answer."""
    statuses: list[int] = field(default_factory=list)
    """HTTP status; 0 if the connection was lost."""
    timings: list[bytes] = field(default_factory=list)
    """JSON of the field `timing` of the answer; empty if the answer has none."""
    late: list[float] = field(default_factory=list)
    """Open loop: seconds from the time at which a request was due until it was sent."""
    cpu_seconds: float = 0.0
    """CPU time of the client, including the set-up of its connections."""

    def add(self, started: float, seconds: float, status: int, body: bytes) -> None:
        self.started.append(started)
        self.seconds.append(seconds)
        self.statuses.append(status)
        found = body.rfind(_TIMING)
        self.timings.append(b"" if found < 0 else body[found + len(_TIMING) : -1])

    def extend(self, other: Outcome) -> None:
        """Add the answers that another client got in the same time."""
        self.started += other.started
        self.seconds += other.seconds
        self.statuses += other.statuses
        self.timings += other.timings
        self.late += other.late
        self.cpu_seconds += other.cpu_seconds


class Answered(Protocol):
    def __call__(self, connection: ClientConnection, status: int, body: bytes) -> None: ...


class ClientConnection(asyncio.Protocol):
    """A connection with one request at a time.

    Args:
        answered: called with each answer; with status 0 if the connection is lost before the answer.
    """

    def __init__(self, answered: Answered) -> None:
        self.due = 0.0
        """Time at which the request in flight was sent or due; set by the sender."""
        self.alive = True
        self._answered = answered
        self._waits = False
        self._received = b""
        self._expected = 0
        self._head = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def send(self, request: bytes) -> None:
        self._waits, self._received, self._expected = True, b"", 0
        if self.alive:
            self._transport.write(request)
        else:
            self.connection_lost(None)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        # Most answers arrive in one piece, and then nothing is copied.
        self._received = self._received + data if self._received else data
        if not self._expected and not self._read_head():
            return
        if len(self._received) >= self._expected:
            self._waits = False
            self._answered(self, int(self._received[9:12]), self._received[self._head : self._expected])

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if self._waits:
            self._waits = False
            self._answered(self, 0, b"")

    def _read_head(self) -> bool:
        """Whether the head is complete and has a content length."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = self._received[:end].lower().partition(b"content-length:")[2].split(None, 1)
        if not length:
            self._transport.abort()
            return False
        self._head = end + 4
        self._expected = self._head + int(length[0])
        return True


async def closed_loop(
    port: int, requests: Sequence[bytes], connections: int, seconds: float, clock: Clock = time.perf_counter
) -> Outcome:
    """Connections that each send the next request after the answer to the previous one.

    Returns:
        All requests that began within `seconds`, including those that end later. Lost connections are not reopened.
    """
    loop = asyncio.get_running_loop()
    outcome, following = Outcome(), itertools.cycle(requests)
    finished = loop.create_future()
    busy = connections

    def answered(connection: ClientConnection, status: int, body: bytes) -> None:
        nonlocal busy
        now = clock()
        outcome.add(connection.due - start, now - connection.due, status, body)
        if now - start < seconds and status:
            connection.due = now
            connection.send(next(following))
            return
        busy -= 1
        if not busy:
            finished.set_result(None)

    ready = [await _connect(port, answered) for _ in range(connections)]
    start = clock()
    for connection in ready:
        connection.due = clock()
        connection.send(next(following))
    await finished
    _close(ready)
    return outcome


async def open_loop(
    port: int, requests: Sequence[bytes], arrivals: Sequence[float], clock: Clock = time.perf_counter
) -> Outcome:
    """One request at each of the given times, however long answers take: a slow service gets no fewer requests.

    Latency counts from the time at which a request was due, so the wait for a connection or for this process counts.

    Args:
        port: port of the service on this machine.
        requests: HTTP requests, sent in turn.
        arrivals: times of the requests in seconds from the start, ascending.
        clock: seconds, monotonic.
    """
    outcome, following = Outcome(), itertools.cycle(requests)
    waiting: deque[float] = deque()
    finished = asyncio.get_running_loop().create_future()

    def answered(connection: ClientConnection, status: int, body: bytes) -> None:
        outcome.add(connection.due, clock() - start - connection.due, status, body)
        if status:
            idle.append(connection)
        send()
        if not any(other.alive for other in connections):
            while waiting:
                due = waiting.popleft()
                outcome.add(due, clock() - start - due, 0, b"")
        if len(outcome.seconds) == len(arrivals):
            finished.set_result(None)

    def send() -> None:
        while waiting and idle:
            connection = idle.pop()
            if connection.alive:  # the service may close an idle connection
                connection.due = waiting.popleft()
                outcome.late.append(clock() - start - connection.due)
                connection.send(next(following))

    connections = [await _connect(port, answered) for _ in range(min(_READY_CONNECTIONS, len(arrivals)))]
    idle = [*connections]
    start = clock()
    for due in arrivals:
        if (left := start + due - clock()) > 0:
            await asyncio.sleep(left)
        if not idle and sum(other.alive for other in connections) < _MOST_CONNECTIONS:
            connections.append(await _connect(port, answered))
            idle.append(connections[-1])
        waiting.append(due)
        send()
    if arrivals:
        await finished
    _close(connections)
    return outcome


def run_closed(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
    """Run `closed_loop` on the fastest event loop that is installed."""
    return _run(closed_loop(port, requests, connections, seconds), _fastest_loop)


def share(connections: int, clients: int) -> list[int]:
    """The connections of each of up to `clients` processes."""
    clients = min(clients, connections)
    return [connections // clients + (index < connections % clients) for index in range(clients)]


def gather(jobs: Iterable[Future[Outcome]]) -> Outcome:
    """The answers of several processes that send requests at the same time."""
    outcome = Outcome()
    for job in list(jobs):  # all jobs begin before the first result
        outcome.extend(job.result())
    return outcome


def run_open(port: int, requests: Sequence[bytes], arrivals: Sequence[float]) -> Outcome:
    """Run `open_loop` on an event loop with exact timers: those of uvloop and epoll have whole milliseconds."""
    return _run(open_loop(port, requests, arrivals), lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()))


def _fastest_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _run(load: Coroutine[Any, Any, Outcome], new_event_loop: Callable[[], asyncio.AbstractEventLoop]) -> Outcome:
    before = time.process_time()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        outcome = runner.run(load)
    outcome.cpu_seconds = time.process_time() - before
    return outcome


async def _connect(port: int, answered: Answered) -> ClientConnection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: ClientConnection(answered), "127.0.0.1", port)
    return connection


def _close(connections: Sequence[ClientConnection]) -> None:
    for connection in connections:
        connection.close()
