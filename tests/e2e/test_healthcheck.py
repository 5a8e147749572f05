"""The health check of a container, with a small HTTP server."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from service.cli.healthcheck import url
from tests.support.process import probe


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/readyz" else 404)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"loading and warming up")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_exit_status_follows_readiness(server: HTTPServer) -> None:
    port = str(server.server_port)
    server.status = 200  # type: ignore[attr-defined]
    assert probe(RESNET_SERVE_PORT=port).returncode == 0
    server.status = 503  # type: ignore[attr-defined]
    told = probe(RESNET_SERVE_PORT=port)
    assert (told.returncode, told.stderr) == (1, "loading and warming up\n")


def test_refused_connection_is_an_error() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        told = probe(RESNET_SERVE_PORT=str(bound.getsockname()[1]))
    assert told.returncode == 1
    assert "refused" in told.stderr


def test_url_follows_the_environment_as_the_service_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for port in ("", "tcp://10.43.7.9:8000"):  # the second is what Kubernetes sets
        monkeypatch.setenv("RESNET_SERVE_PORT", port)
        assert url() == "http://127.0.0.1:8000/readyz"
    for host, asked in (
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "[2001:db8::1]"),
    ):
        monkeypatch.setenv("RESNET_SERVE_HOST", host)
        assert url() == f"http://{asked}:8000/readyz"
    monkeypatch.delenv("RESNET_SERVE_HOST")
    monkeypatch.setenv("RESNET_SERVE_PORT", "9000")
    monkeypatch.setenv("RESNET_SERVE_SSL_CERTFILE", "/certificate.pem")
    assert url() == "https://127.0.0.1:9000/readyz"
    monkeypatch.setenv("AIP_HTTP_PORT", "8080")
    monkeypatch.setenv("RESNET_SERVE_COMPAT", "vertex")
    assert url() == "https://127.0.0.1:8080/readyz"


def test_healthcheck_imports_no_slow_package() -> None:
    code = "import sys, service.cli.healthcheck; print(*{'numpy', 'pydantic', 'fastapi'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"
