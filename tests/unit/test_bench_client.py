"""The client of the benchmark against a server of the test: its counts and times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from benchmarks.serve import client
from benchmarks.serve.client import Outcome, closed_loop, open_loop

REQUEST = b"POST /classify HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
TIMING = b'{"inference_ms":0.5,"batch_size":1}'
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n{"timing":' + TIMING + b"}"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Load = Callable[[int], Awaitable[Outcome]]


class Clock:
    """Stands still, unless the server moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def play(answer: Answer, load: Load) -> Outcome:
    """A load against a server that calls `answer` with each request that has come, until the client leaves."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readexactly(len(REQUEST)) == REQUEST:
                await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> Outcome:
        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        async with server:
            return await asyncio.wait_for(load(server.sockets[0].getsockname()[1]), 30)

    return asyncio.run(run())


def sends(answer: bytes) -> Answer:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return send


async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def takes(seconds: float, clock: Clock) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock.now += seconds
        writer.write(OK)

    return answer


def when_there_are(count: int) -> Answer:
    """Answers none before so many requests are open."""
    together = asyncio.Barrier(count)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await together.wait()
        writer.write(OK)

    return answer


def test_closed_loop_sends_the_next_when_one_is_answered() -> None:
    clock = Clock()
    outcome = play(takes(0.25, clock), lambda port: closed_loop(port, [REQUEST], 1, 1.0, clock))
    assert outcome.started == [0.0, 0.25, 0.5, 0.75]
    assert outcome.seconds == [0.25] * 4
    assert outcome.statuses == [200] * 4
    assert outcome.timings == [TIMING] * 4


def test_closed_loop_has_a_request_open_on_every_connection() -> None:
    outcome = play(when_there_are(8), lambda port: closed_loop(port, [REQUEST], 8, 0.0))
    assert outcome.statuses == [200] * 8


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n", 503),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0),
    ],
)
def test_errors_are_counted(answer: bytes, status: int) -> None:
    outcome = play(sends(answer), lambda port: closed_loop(port, [REQUEST], 3, 0.0))
    assert outcome.statuses == [status] * 3
    assert outcome.timings == [b""] * 3


def test_closed_loop_ends_when_its_connections_break() -> None:
    outcome = play(closes, lambda port: closed_loop(port, [REQUEST], 3, 1e9))
    assert outcome.statuses == [0] * 3


def test_connection_that_is_closed_before_its_first_request() -> None:
    async def run() -> Outcome:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.wait_for(closed_loop(port, [REQUEST], 3, 1e9), 30)

    assert asyncio.run(run()).statuses == [0] * 3


def test_answer_may_come_byte_by_byte() -> None:
    async def slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in OK:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    outcome = play(slowly, lambda port: closed_loop(port, [REQUEST], 1, 0.0))
    assert (outcome.statuses, outcome.timings) == ([200], [TIMING])


def test_open_loop_does_not_wait_for_answers() -> None:
    outcome = play(when_there_are(3), lambda port: open_loop(port, [REQUEST], [0.0, 0.0, 0.0]))
    assert outcome.statuses == [200] * 3


def test_open_loop_counts_from_when_a_request_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_READY_CONNECTIONS", 1)
    monkeypatch.setattr(client, "_MOST_CONNECTIONS", 1)
    clock = Clock()
    outcome = play(takes(1.0, clock), lambda port: open_loop(port, [REQUEST], [0.0, 0.0, 0.0], clock))
    assert outcome.seconds == [1.0, 2.0, 3.0]
    assert outcome.late == [0.0, 1.0, 2.0]
    assert outcome.started == [0.0] * 3


@pytest.mark.parametrize("connections", [1, 2])
def test_open_loop_ends_when_its_connections_break(connections: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_READY_CONNECTIONS", connections)
    monkeypatch.setattr(client, "_MOST_CONNECTIONS", connections)
    outcome = play(closes, lambda port: open_loop(port, [REQUEST], [0.0, 0.0, 0.0]))
    assert outcome.statuses == [0] * 3


def test_loops_run_in_an_event_loop_of_their_own() -> None:
    """As a process of its own calls it, on the event loop that is best for it."""

    def elsewhere(run: Callable[..., Outcome], *arguments: Any) -> Load:
        return lambda port: asyncio.to_thread(run, port, [REQUEST], *arguments)

    assert play(sends(OK), elsewhere(client.run_closed, 2, 0.0)).statuses == [200] * 2
    assert play(sends(OK), elsewhere(client.run_open, [0.0, 0.001])).statuses == [200] * 2
