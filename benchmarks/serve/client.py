"""A client that costs little, so that on a small machine the service is what is measured.

Connections are asyncio protocols that write requests made beforehand and read of an answer no more than its status and
length. The functions here run in processes of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Clock = Callable[[], float]

_TIMING = b'"timing":'
_READY_CONNECTIONS = 32
"""Of the open loop, made before it begins: making one takes longer than some answers."""
_MOST_CONNECTIONS = 512
"""Of the open loop: `select` takes no file beyond number 1023. What is due beyond them waits, and the wait counts."""


@dataclass
class Outcome:
    """What became of the requests. Lists hold an item for each answer, in the order in which they came."""

    started: list[float] = field(default_factory=list)
    """When the request was sent or, in an open loop, was due; seconds from the start."""
    seconds: list[float] = field(default_factory=list)
    """From then to the last byte of the answer."""
    statuses: list[int] = field(default_factory=list)
    """0 where the connection broke."""
    timings: list[bytes] = field(default_factory=list)
    """The service's own account, JSON; empty where the answer has none."""
    late: list[float] = field(default_factory=list)
    """Open loop: seconds from when a request was due until it was sent."""
    cpu_seconds: float = 0.0
    """Processor time of the client, with making its connections."""

    def add(self, started: float, seconds: float, status: int, body: bytes) -> None:
        self.started.append(started)
        self.seconds.append(seconds)
        self.statuses.append(status)
        found = body.rfind(_TIMING)
        self.timings.append(b"" if found < 0 else body[found + len(_TIMING) : -1])

    def extend(self, other: Outcome) -> None:
        """Add what another client saw in the same time."""
        self.started += other.started
        self.seconds += other.seconds
        self.statuses += other.statuses
        self.timings += other.timings
        self.late += other.late
        self.cpu_seconds += other.cpu_seconds


class Answered(Protocol):
    def __call__(self, connection: Connection, status: int, body: bytes) -> None: ...


class Connection(asyncio.Protocol):
    """One request at a time.

    Args:
        answered: called with each answer; with status 0 where the connection is lost before it.
    """

    def __init__(self, answered: Answered) -> None:
        self.due = 0.0
        """When the request in flight was sent or should have been; belongs to whoever sends."""
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
        # An answer mostly comes whole, and then nothing is copied.
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
        """Whether it is complete, and its answer one whose end is known."""
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
    """Connections that each send the next request when theirs is answered.

    Returns:
        All that were begun within `seconds`; the last are waited for. A connection that is lost is not made again.
    """
    loop = asyncio.get_running_loop()
    outcome, following = Outcome(), itertools.cycle(requests)
    finished = loop.create_future()
    busy = connections

    def answered(connection: Connection, status: int, body: bytes) -> None:
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
    """A request at each of the given times, however long answers take, so that a slow service is not asked less.

    Latency counts from when a request was due: what waits for a connection, or for this process, has waited.

    Args:
        port: of the service, on this machine.
        requests: sent in turn.
        arrivals: seconds from the start, ascending.
        clock: seconds, monotonic.
    """
    outcome, following = Outcome(), itertools.cycle(requests)
    waiting: deque[float] = deque()
    finished = asyncio.get_running_loop().create_future()

    def answered(connection: Connection, status: int, body: bytes) -> None:
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
            if connection.alive:  # the service may close one that is idle
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
    """`closed_loop`, on the fastest event loop that is installed."""
    return _run(closed_loop(port, requests, connections, seconds), _fastest_loop)


def run_open(port: int, requests: Sequence[bytes], arrivals: Sequence[float]) -> Outcome:
    """`open_loop`, on an event loop that wakes in time: uvloop's and epoll's timers are whole milliseconds."""
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


async def _connect(port: int, answered: Answered) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
    return connection


def _close(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.close()
