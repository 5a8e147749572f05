"""Several processes accept connections from one socket."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
from collections import Counter
from pathlib import Path

import pytest
from fastapi import FastAPI

from service.core.settings.offline import OfflineSettings
from service.http.connection.server import Resources
from service.http.connection.shared_listener import ConnectionBalance
from service.http.connection.shared_server import SharedServer, SharedSockets
from service.supervisor.listening import listen
from service.telemetry.sheet import Sheet
from tests.support.certificates import make_certificate
from tests.support.service import TIMEOUT
from tests.support.supervised import WORKERS, ask_each, supervised

CONNECTIONS = 16


def accepting(connections: int) -> Sheet:
    """A worker that accepts connections and has some."""
    sheet = Sheet("worker", 1, 1)
    sheet.begin()
    sheet.connections, sheet.accepting = connections, True
    return sheet


def test_worker_with_the_fewest_connections_accepts() -> None:
    own, other = accepting(3), accepting(3)
    balance = ConnectionBalance(own, [other])
    assert balance.should_accept()
    other.connections = 2
    assert not balance.should_accept()
    other.accepting = False
    assert balance.should_accept()


def test_worker_without_a_heartbeat_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    other = accepting(0)
    now = other.heartbeat
    balance = ConnectionBalance(accepting(1), [other])
    monkeypatch.setattr("service.http.connection.shared_listener.time.monotonic", lambda: now + 0.1)
    assert not balance.should_accept()
    monkeypatch.setattr("service.http.connection.shared_listener.time.monotonic", lambda: now + 1.0)
    assert balance.should_accept()


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
def test_connections_are_shared_evenly(tls: bool, tmp_path: Path) -> None:
    flags = ["--port", "0"]
    if tls:
        if shutil.which("openssl") is None:
            pytest.skip("needs the openssl command to make a certificate")
        certificate, key = make_certificate(tmp_path)
        flags += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with supervised("serve", *flags) as service:
        listening = re.search(r"listening on (https?://[\d.]+:\d+)", service.line("listening on"))
        assert listening is not None
        service.begin(WORKERS + 1)
        for _ in range(2):  # the second time, after the first connections were closed
            counts = Counter(
                ask_each(listening[1], CONNECTIONS, ssl.create_default_context(cafile=certificate) if tls else True)
            )
            assert counts.total() == CONNECTIONS
            assert max(counts.values()) <= 1.5 * CONNECTIONS / WORKERS
        status, ended = service.end()
        assert (status, len(ended), ended[-1]) == (0, WORKERS + 1, "engine")


class NoticedSheet(Sheet):
    """Sets an event once there is a connection."""

    connected: asyncio.Event

    @property
    def connections(self) -> int:
        return super().connections

    @connections.setter
    def connections(self, connections: int) -> None:
        Sheet.connections.__set__(self, connections)  # type: ignore[attr-defined]
        if connections:
            self.connected.set()


def test_connection_that_was_accepted_is_answered_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker ends after it has accepted a connection, and before the first request arrives on it."""
    monkeypatch.setattr("service.http.connection.shared_server._FIRST_REQUEST_SECONDS", TIMEOUT)
    monkeypatch.setattr(SharedServer, "_keep_objects", lambda server: None)  # it would affect the process of the tests

    async def play() -> bytes:
        (listening,) = listen("127.0.0.1", 0)
        sheet = NoticedSheet("worker", 1, 1)
        sheet.connected = asyncio.Event()
        app = FastAPI()
        app.get("/")(lambda: "answer")
        server = SharedServer(app, OfflineSettings(), SharedSockets([listening], Resources(10, None), sheet, []))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        accepting = [sheet.accepting]
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        await sheet.connected.wait()
        end = asyncio.create_task(server.shutdown())
        await asyncio.sleep(0)
        accepting.append(sheet.accepting)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        received = await reader.read()
        await end
        writer.close()
        assert (accepting, sheet.connections) == ([True, False], 0)
        return received

    received = asyncio.run(play())
    assert received.startswith(b"HTTP/1.1 200 OK") and received.endswith(b'"answer"')


def test_sockets_of_a_host_have_one_port() -> None:
    sockets = listen("localhost", 0)
    assert len({each.getsockname()[1] for each in sockets}) == 1
    with pytest.raises(SystemExit, match="3"):
        listen("127.0.0.1", sockets[0].getsockname()[1])
    for each in sockets:
        each.close()
