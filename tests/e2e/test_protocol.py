"""A real process disconnects slow and silent clients."""

from __future__ import annotations

import json
import re
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

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


@pytest.mark.slow
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


@pytest.mark.slow
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


def photograph_of(size: int, photographs: list[tuple[str, bytes]]) -> bytes:
    """A photograph with bytes behind it, which decoders ignore, up to a size."""
    return photographs[0][1].ljust(size, b"\0")


@pytest.mark.slow
def test_disconnect_after_a_large_body_ends_the_request(
    tiny_repository: Path, photographs: list[tuple[str, bytes]]
) -> None:
    flags = ["--executor", "simulated:50000", "--timeout-ms", 100_000, "--log-format", "text"]
    with running("--repository", tiny_repository, *flags) as server:
        for size in (1_000, 200_000, 1_000_000):
            data = photograph_of(size, photographs)
            with connect(server.url) as client:
                client.sendall(HEAD + b"X-Request-Id: size-%d\r\nContent-Length: %d\r\n\r\n" % (size, len(data)) + data)
            assert " 499 request_id=size-" in server.wait_for_log(f".*request_id=size-{size} .*")[0]


@pytest.mark.slow
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
        with connect(server.url) as client:  # has not gone, but takes as long as one that has
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            client.shutdown(socket.SHUT_WR)
            assert statuses(read_all(client)) == [100, 200]
        (computed,) = re.findall(r"resnet_batch_size_sum.* (\S+)", metrics)
        assert float(computed) <= 2
        assert "ERROR" not in server.end()


def statuses(received: bytes) -> list[int]:
    """The statuses of all responses of a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "part", "status"),
    [
        (b"GET / HTTP/1.1\r\nA: ", b"a", 431),
        (b"GET / HTTP/1.1\r\n", b"a:\r\n", 431),
        (b"GET /", b"a", 431),
        (CHUNKED + b"1\r\na\r\n0\r\nA: ", b"a", 431),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"a:\r\n", 431),
        (CHUNKED + b"1;a=", b"a", 431),
        (CHUNKED, b"1;a=" + b"a" * 1000 + b"\r\na\r\n", 431),
        (CHUNKED, b"no size\r\n", 400),
        (b"", b"no request\r\n", 400),
    ],
    ids=["header", "headers", "path", "trailer", "trailers", "chunk extension", "chunk extensions", "chunk", "method"],
)
def test_endless_head_is_refused_after_the_requests_before(start: bytes, part: bytes, status: int, url: str) -> None:
    before = b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(url) as client:
        client.sendall(before + start + part * (200_000 // len(part)))
        answer = read_all(client)
    assert statuses(answer) == [404, status]
    problem = json.loads(answer.rpartition(b"\r\n\r\n")[2])
    assert (problem["status"], b"connection: close" in answer.lower()) == (status, True)


def test_a_head_below_the_limit_is_read(url: str) -> None:
    with connect(url) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\nA: " + b"a" * 65_000 + b"\r\n\r\n")
        assert statuses(read_all(client)) == [200]


@pytest.mark.slow
def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    paths = ["/healthz", "/v1/nothing", "/v1/classify"] * 1000
    sent = "".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths)
    with connect(url) as client:
        sender = Thread(target=client.sendall, args=(sent.encode() + HEAD + b"Connection: close\r\n\r\n",))
        sender.start()
        answer = read_all(client)
        sender.join()
    assert statuses(answer) == [200, 404, 405] * 1000 + [422]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upgrade_is_ignored_and_the_body_is_read(upgrade: str, framing: str, url: str) -> None:
    hidden = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"  # must not be run
    head = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\n" % upgrade.encode()
    if framing == "length":
        request = head + b"Content-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
    else:
        request = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)
    with connect(url) as client:
        client.sendall(request * 2 + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = read_all(client)
    assert statuses(answer) == [422, 422, 200]


def test_a_client_that_ends_its_side_gets_its_answers(url: str, photographs: list[tuple[str, bytes]]) -> None:
    _, data = photographs[0]
    for request in (
        HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data,
        HEAD + b"Content-Length: %s%d\r\n\r\n" % (b"0" * 5000, len(data)) + data,
    ):
        with connect(url) as client:
            client.sendall(request * 3 + request[:-1])  # the last one cannot be answered
            client.shutdown(socket.SHUT_WR)
            assert statuses(read_all(client)) == [200, 200, 200]


def test_pipelined_requests_with_large_bodies_are_answered(url: str, photographs: list[tuple[str, bytes]]) -> None:
    data = photograph_of(300_000, photographs)
    requests = (HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data) * 4
    requests += HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    with connect(url) as client:
        sender = Thread(target=client.sendall, args=(requests,))
        sender.start()
        assert statuses(read_all(client)) == [200] * 5
        sender.join()


def test_expect_continue_on_a_pipelined_request(url: str, photographs: list[tuple[str, bytes]]) -> None:
    _, data = photographs[0]
    with connect(url) as client:
        client.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
            + HEAD
            + b"Connection: close\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(data)
        )
        read_until(client, b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(data)
        assert statuses(read_all(client)) == [200]


def test_head_gets_the_headers_of_get(url: str) -> None:
    paths = ("/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/v1/models", "/v2/health/live")
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        for path in paths:
            answer, headed = client.get(path), client.head(path)
            assert (headed.status_code, headed.content) == (answer.status_code, b"")
            assert headed.headers.get("content-type") == answer.headers.get("content-type")
        assert client.head("/v1/classify").status_code == 405


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [None, "127.0.0.1"])
def test_forwarded_addresses_count_only_from_trusted_proxies(trusted: str | None, tiny_repository: Path) -> None:
    flags = ["--executor", "simulated:0", "--rate-limit", 0.001, "--rate-burst", 1]
    flags += [] if trusted is None else ["--trusted-proxies", trusted]
    with running("--repository", tiny_repository, *flags) as server, httpx.Client(base_url=server.url) as client:
        answers = [client.get("/v1/models", headers={"X-Forwarded-For": f"192.0.2.{number}"}) for number in (1, 2)]
        server.end()
    assert [answer.status_code for answer in answers] == [200, 429 if trusted is None else 200]


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
        with connect(url) as client:  # is closed, although the client goes on to send
            client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(500_000))
            assert statuses(read_all(client)) == [503]
        assert httpx.get(f"{url}/healthz").status_code == 200
        others[0].shutdown(socket.SHUT_WR)
        assert read_all(others[0]) == b""  # the service has closed its end as well
        assert httpx.post(f"{url}/v1/classify", content=photographs[0][1]).status_code == 200
