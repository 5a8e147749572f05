"""Connections of hostile clients and of the fuzzer: the service answers each with a permitted status.

`python -m tests.acceptance.faults.fuzz` writes what it finds to `tests/data/corpus/`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.support.fuzzing import Finding, exchange
from tests.support.process import ServerProcess, running

CORPUS = Path(__file__).parents[1] / "data" / "corpus"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running() as server:
        yield server


@pytest.mark.parametrize("path", sorted(CORPUS.rglob("*.bin")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_connection_is_answered(server: ServerProcess, path: Path) -> None:
    exchange(int(server.url.rpartition(":")[2]), path.read_bytes())
    assert httpx.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 501 Not Implemented\r\n\r\n", "status 501"),
    ],
)
def test_exchange_finds_a_status_that_is_not_permitted(answer: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = Thread(target=_answer, args=(listening, answer))
        serving.start()
        with pytest.raises(Finding, match=reason):
            exchange(listening.getsockname()[1], b"GET / HTTP/1.1\r\n\r\n")
        serving.join()


def test_exchange_permits_overload_and_timeouts() -> None:
    answer = b"HTTP/1.1 503 Service Unavailable\r\n\r\nHTTP/1.1 504 Gateway Timeout\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = Thread(target=_answer, args=(listening, answer))
        serving.start()
        assert exchange(listening.getsockname()[1], b"GET / HTTP/1.1\r\n\r\n") == [503, 504]
        serving.join()


def _answer(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.makefile("rb").read()
        connection.sendall(answer)
