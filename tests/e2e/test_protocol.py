"""A real process disconnects slow and silent clients."""

from __future__ import annotations

import json
import re
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.process import running
from tests.support.service import TIMEOUT

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: service\r\n"


@pytest.fixture(scope="module")
def url(tiny_repository: Path) -> Iterator[str]:
    """A service with short timeouts."""
    flags = [
        "--client-timeout-seconds",
        "0.2",
        "--keep-alive-seconds",
        1,
        "--max-connections",
        4,
        "--log-format",
        "text",
    ]
    with running("--repository", tiny_repository, *flags) as server:
        yield server.url
        assert "ERROR" not in server.end()


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def read_all(client: socket.socket) -> bytes:
    """All bytes until the service closes the connection; fails if it does not."""
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def read_until(client: socket.socket, ending: bytes) -> bytes:
    """A response that ends with given bytes."""
    received = b""
    while not received.endswith(ending):
        part = client.recv(65536)
        assert part, f"the service closed the connection after {received!r}"
        received += part
    return received


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/cl", HEAD, HEAD + b"Content-Length: 10\r\n\r\nabc"],
    ids=["nothing", "part of a line", "part of a head", "part of a body"],
)
def test_incomplete_request_times_out(sent: bytes, url: str) -> None:
    with connect(url) as client:
        client.sendall(sent)
        answer = read_all(client)
    if b"abc" in sent:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 408
    else:
        assert answer == b""


def test_incomplete_second_request_times_out(url: str) -> None:
    with connect(url) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\nGET /hea")
        answer = read_all(client)
    assert answer.count(b"HTTP/1.1 200") == 1


def test_endless_refused_body_is_disconnected(url: str) -> None:
    with connect(url) as client:
        client.sendall(HEAD + b"Content-Length: 9000000000\r\n\r\n")
        with pytest.raises(OSError, match=r"[Bb]roken pipe|reset"):
            while True:
                client.sendall(bytes(1000))


def test_client_that_does_not_read_is_disconnected(url: str) -> None:
    with connect(url) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # The responses are larger than the buffers of both sides.
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: service\r\n\r\n" * 300)
        disconnection = select.poll()
        disconnection.register(client, 0)
        assert disconnection.poll(1000 * TIMEOUT), "the service waits for ever"


def test_a_refused_body_does_not_become_the_next_request(url: str, photographs: list[tuple[str, bytes]]) -> None:
    """The connection is used again after the refused body."""
    body = b"GET /healthz HTTP/1.1\r\n\r\n" * 100
    with connect(url) as client:
        client.sendall(
            b"POST /v1/models/other/classify HTTP/1.1\r\nHost: service\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        first = client.recv(65536)
        client.sendall(body + b"GET /readyz HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n")
        rest = read_all(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", first + rest) == [b"404", b"200"]


def test_refused_body_may_be_left_out_with_expect_continue(url: str) -> None:
    with connect(url) as client:
        client.sendall(
            b"POST /v1/models/other/classify HTTP/1.1\r\nHost: service\r\nContent-Length: 1000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_image_of_a_disconnected_client_is_not_computed(
    tiny_repository: Path, photographs: list[tuple[str, bytes]]
) -> None:
    _, data = photographs[0]
    flags = ["--executor", "simulated:500", "--max-batch", 1, "--log-format", "text"]
    with running("--repository", tiny_repository, *flags) as server:
        for _ in range(20):
            with connect(server.url) as client:
                client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
            assert client.post("/v1/classify", content=data).status_code == 200
            metrics = client.get("/metrics").text
        (computed,) = re.findall(r"resnet_batch_size_sum.* (\S+)", metrics)
        assert float(computed) <= 2
        assert "ERROR" not in server.end()


def test_connection_above_the_limit_gets_503(url: str, photographs: list[tuple[str, bytes]]) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(connect(url)) for _ in range(4)]
        for other in others:  # each is in use
            other.sendall(b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n")
            assert read_until(other, b"\r\n\r\nok\n").startswith(b"HTTP/1.1 200 ")
        refused = httpx.post(f"{url}/v1/classify", content=photographs[0][1])
        assert refused.status_code == 503
        assert "too many clients are connected" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "1"
        assert httpx.get(f"{url}/healthz").status_code == 200
        others[0].shutdown(socket.SHUT_WR)
        assert read_all(others[0]) == b""  # the service has closed its end as well
        assert httpx.post(f"{url}/v1/classify", content=photographs[0][1]).status_code == 200
