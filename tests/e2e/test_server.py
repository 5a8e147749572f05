"""The real process: its output, its exit, and the requests in flight at its exit."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.certificates import make_certificate, needs_openssl
from tests.support.process import ServerProcess, probe, running, start
from tests.support.service import TIMEOUT
from tests.support.tiny import Photographs

REQUESTS = 50


class Connection:
    """Sends a request in two parts, so that the service accepts it before it has the image."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        host, port = url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def announce(self, length: int) -> None:
        """Send the head of a request, and wait until the service asks for its body."""
        self._writer.write(
            b"POST /v1/classify HTTP/1.1\r\nHost: service\r\nConnection: close\r\n"
            b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % length
        )
        assert await self._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    async def send(self, body: bytes) -> None:
        self._writer.write(body)
        await self._writer.drain()

    async def receive(self) -> tuple[int, Any]:
        """The status and the JSON of the response, after which the service closes the connection."""
        head, _, body = (await self._reader.read()).partition(b"\r\n\r\n")
        self._writer.close()
        return int(head.split()[1]), json.loads(body)


@pytest.mark.slow
def test_accepted_requests_are_answered_before_exit(tiny_repository: Path, photographs: Photographs) -> None:
    """Half of the requests are computed and half wait in the queue when the signal comes."""
    flags = ["--executor", "simulated:1500", "--max-batch", REQUESTS // 2, "--max-delay-ms", 20_000]
    bodies = [photographs[number % len(photographs)][1] for number in range(REQUESTS)]

    async def play(server: ServerProcess) -> list[tuple[int, Any]]:
        requests = [(await Connection.open(server.url), body) for body in bodies]
        await asyncio.gather(*(connection.announce(len(body)) for connection, body in requests))
        await asyncio.gather(*(connection.send(body) for connection, body in requests))
        server.process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*(connection.receive() for connection, _ in requests))

    with running("--repository", tiny_repository, "--timeout-ms", 60_000, *flags) as server:
        answers = asyncio.run(asyncio.wait_for(play(server), TIMEOUT))
        assert [status for status, _ in answers] == [200] * REQUESTS
        assert all(len(answer["results"][0]["predictions"]) == 5 for _, answer in answers)
        assert [answer["timing"]["batch_size"] for _, answer in answers] == [REQUESTS // 2] * REQUESTS
        server.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_shutdown_seconds_may_be_less_than_one(
    number: signal.Signals, tiny_repository: Path, photographs: Photographs
) -> None:
    async def play(server: ServerProcess) -> tuple[int, Any]:
        connection = await Connection.open(server.url)
        await connection.announce(len(photographs[0][1]))
        await connection.send(photographs[0][1])
        server.process.send_signal(number)
        return await connection.receive()

    with running("--repository", tiny_repository, "--executor", "simulated:300", "--shutdown-seconds", 0.9) as server:
        status, _ = asyncio.run(asyncio.wait_for(play(server), TIMEOUT))
        assert status == 200
        server.wait()


@pytest.mark.slow
def test_open_connections_do_not_delay_the_exit(tiny_repository: Path) -> None:
    """The time limit is that of the shutdown, not that of clients, which is far above."""
    with (
        running("--repository", tiny_repository, "--shutdown-seconds", 0.1, "--client-timeout-seconds", 600) as server,
        ExitStack() as stack,
    ):
        host, port = server.url.removeprefix("http://").split(":")
        for sent in (b"", b"GET", b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"):
            client = stack.enter_context(socket.create_connection((host, int(port))))
            client.sendall(sent)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_while_idle_exits_with_success(
    number: signal.Signals, tiny_repository: Path, photographs: Photographs
) -> None:
    with running("--repository", tiny_repository) as server:
        answer = httpx.post(f"{server.url}/v1/classify", content=photographs[0][1])
        assert answer.status_code == 200
        with httpx.Client() as client:  # an idle connection does not delay the exit
            assert client.get(f"{server.url}/healthz").text == "ok\n"
            server.end(number)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--executor", "abacus"],
            "no executor is named 'abacus'; there are: cuda, onnxruntime-cpu, onnxruntime-cuda",
        ),
        (["--repository", "/missing/repository"], "/missing/repository: there is no such folder"),
        (["--port", "99999"], "port: "),
        (["--ssl-keyfile", "key.pem"], "ssl_keyfile needs ssl_certfile"),
        (["--ssl-certfile", "/missing.pem"], "ssl_certfile: /missing.pem cannot be read: No such file"),
    ],
)
def test_invalid_settings_print_one_line_and_exit_with_2(flags: list[str], message: str, tiny_repository: Path) -> None:
    process = start("--repository", tiny_repository, *flags)
    printed, logged = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert printed == ""
    (line,) = logged.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--log-format", "json"], ["--log-format", "text"]])
def test_warnings_of_the_settings_have_the_format_of_the_log(flags: list[str], tiny_repository: Path) -> None:
    with running("--repository", tiny_repository, "--queue-size", 512, *flags) as server:
        found = server.wait_for_log(r"^.*--queue-size is now --max-in-flight-images.*")[0]
    if flags[1] == "json":
        assert json.loads(found)["level"] == "warning"
    else:
        assert " WARNING --queue-size is now" in found


@pytest.mark.slow
def test_port_in_use(tiny_repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--repository", tiny_repository, "--port", port)
        _, logged = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    assert f"port {port} of 127.0.0.1: Address already in use: choose another one" in logged
    assert "listening on" not in logged and " ready in " not in logged
    assert "Traceback" not in logged


@pytest.mark.slow
@needs_openssl
def test_tls(tiny_repository: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(certificate))
    flags = ["--executor", "simulated:0", "--ssl-certfile", certificate, "--ssl-keyfile", key]
    flags += ["--max-connections", "1", "--client-timeout-seconds", "1"]
    with running("--repository", tiny_repository, *flags) as server:
        host, port = server.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as silent:  # its handshake never comes
            assert httpx.post(f"{server.url}/v1/classify", verify=context).status_code == 503
            assert silent.recv(1) == b""  # after the time limit
        assert server.url.startswith("https://")
        assert httpx.get(f"{server.url}/healthz", verify=context).text == "ok\n"
        settings = {"RESNET_SERVE_PORT": server.url.rpartition(":")[2], "RESNET_SERVE_SSL_CERTFILE": str(certificate)}
        assert probe(**settings).returncode == 0
        server.end()


@pytest.mark.slow
def test_root_path_behind_a_proxy(tiny_repository: Path, photographs: Photographs) -> None:
    with running("--repository", tiny_repository, "--executor", "simulated:0", "--root-path", "/vision") as server:
        url = server.url
        assert httpx.post(f"{url}/v1/classify", content=photographs[0][1]).status_code == 200
        assert httpx.get(f"{url}/v2/models/resnet").json().keys() == {"error"}
        assert httpx.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/vision"}]
        # Relative, so that a browser behind the proxy finds them below the prefix.
        assert 'src="page/docs.js"' in httpx.get(f"{url}/docs").text
        assert '"openapi.json"' in httpx.get(f"{url}/page/docs.js").text
