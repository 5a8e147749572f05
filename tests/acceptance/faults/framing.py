"""Connections, heads and the framing of requests."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.acceptance.faults.case import attack, check, expect
from tests.acceptance.faults.served import ROOT, ServedProcess, serve
from tests.support.certificates import make_certificate

IMAGE = (ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png").read_bytes()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n"
MIB = 1024 * 1024
UPGRADES = ("h2c", "websocket")
READABLE = ("/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/v1/models", "/v2", "/v2/health/live")


def post(body: bytes = IMAGE, *headers: str, path: str = "/v1/classify") -> bytes:
    """A POST request with a body of known length."""
    lines = [f"POST {path} HTTP/1.1", "Host: service", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def read_all(client: socket.socket) -> bytes:
    """All bytes until the service closes the connection."""
    received = bytearray()
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return bytes(received)


def statuses(received: bytes) -> list[int]:
    """The statuses of the responses in the bytes of a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]


def ask(service: ServedProcess, sent: bytes) -> list[int]:
    """Send bytes and the end of the connection. Returns the statuses of all responses."""
    with service.connect() as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        return statuses(read_all(client))


def send_endlessly(client: socket.socket, parts: Iterable[bytes], seconds: float) -> int:
    """Send until the service does not take more for a second, or closes. Returns the number of bytes."""
    sent, end = 0, time.monotonic() + seconds
    client.settimeout(1.0)
    try:
        for part in parts:
            sent += client.send(part)
            if time.monotonic() > end:
                break
    except OSError:
        pass
    return sent


def repeat(data: bytes) -> Iterator[bytes]:
    """The same bytes for ever, in pieces of about 64 kB."""
    piece = data * (65536 // len(data) + 1)
    while True:
        yield piece


@attack(3, "connections that only send", memory_mb=400)
def pipelining(service: ServedProcess) -> str:
    """A client that does not read the responses can send no more than the buffers hold."""
    requests = (HEALTH, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", post(), post(path="/v1/nothing"))
    sent = []
    for request in requests:
        with service.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sent.append(send_endlessly(client, repeat(request), 10.0))
    expect(max(sent) < 64 * MIB, f"the service took {max(sent) / 1e6:.0f} MB of requests that it did not answer")
    with service.connect() as client:
        threading.Thread(target=client.sendall, args=(post() * 2000 + post(IMAGE, "Connection: close"),)).start()
        answered = statuses(read_all(client))
    expect(answered == [200] * 2001, f"of 2,001 pipelined requests, {answered.count(200)} were answered with 200")
    return f"took {' '.join(f'{each / 1e6:.1f}' for each in sent)} MB"


@attack(4, "heads, trailers and chunk extensions without end", memory_mb=400)
def heads(service: ServedProcess) -> str:
    """Each of them is refused with 431, also if eight connections send them at once."""
    chunked = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    attacks = {
        "one header": (b"GET / HTTP/1.1\r\nA: ", b"a" * 65536),
        "many headers": (b"GET / HTTP/1.1\r\n", b"a:\r\n" * 16384),
        "a path": (b"GET /", b"a" * 65536),
        "a method": (b"", b"A" * 65536),
        "one trailer": (chunked + b"1\r\na\r\n0\r\nA: ", b"a" * 65536),
        "many trailers": (chunked + b"1\r\na\r\n0\r\n", b"a:\r\n" * 16384),
        "one chunk extension": (chunked + b"1;a=", b"a" * 65536),
        "many chunk extensions": (chunked, b"1;a=" + b"a" * 2000 + b"\r\na\r\n"),
    }
    found: dict[str, set[int]] = {name: set() for name in attacks}

    def send(name: str, start: bytes, part: bytes) -> None:
        with service.connect() as client:
            reader = threading.Thread(target=lambda: found[name].update(statuses(read_all(client))))
            reader.start()
            client.sendall(start)
            try:
                for _ in range(100 * MIB // len(part)):
                    client.sendall(part)
            except OSError:
                pass
            reader.join()

    threads = [threading.Thread(target=send, args=(name, *attacks[name])) for name in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = {name: each for name, each in found.items() if each != {400 if name == "a method" else 431}}
    expect(not refused, f"not refused with 431: {refused}")
    fits = b"GET /healthz HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 65000 + b"\r\n\r\n"
    expect(ask(service, fits) == [200], "a head of less than 64 kB is refused")
    return "431"


@attack(8, "requests to upgrade the connection", memory_mb=300)
def upgrades(service: ServedProcess) -> str:
    """The body is read as the body, not as the next request, for any protocol."""
    hidden = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
    for upgrade in UPGRADES:
        headers = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
        expect(ask(service, post(IMAGE, *headers)) == [200], f"a POST with Upgrade: {upgrade} is not answered")
        expect(ask(service, post(hidden, *headers)) != [200], f"the body of a POST with Upgrade: {upgrade} is run")
        chunked = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: %s\r\n" % upgrade.encode()
        chunked += b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(IMAGE), IMAGE)
        expect(ask(service, chunked * 2 + HEALTH) == [200, 200, 200], "pipelined upgrades are not answered")
    expect(ask(service, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n") == [400], "CONNECT is not refused")
    return f"curl --http2 {_curl(service)}, java {_java(service)}"


def _curl(service: ServedProcess) -> str:
    if shutil.which("curl") is None:
        return "not installed"
    image = service.folder / "image.png"
    image.write_bytes(IMAGE)
    command = ["curl", "--silent", "--http2", "--max-time", "10", "--output", str(service.folder / "answer")]
    url = f"{service.url}/v1/classify"
    code = subprocess.run(
        [*command, "--write-out", "%{http_code}", "--data-binary", f"@{image}", "-H", "Content-Type: image/png", url],
        capture_output=True,
        text=True,
    ).stdout
    expect(code == "200", f"curl --http2 got {code}")
    return code


_JAVA = """
import java.net.URI; import java.net.http.*; import java.nio.file.*;
class Ask {
    public static void main(String[] args) throws Exception {
        var body = HttpRequest.BodyPublishers.ofFile(Path.of(args[1]));
        var request = HttpRequest.newBuilder(URI.create(args[0])).timeout(java.time.Duration.ofSeconds(10)).POST(body);
        var client = HttpClient.newHttpClient();
        System.out.print(client.send(request.build(), HttpResponse.BodyHandlers.ofString()).statusCode());
    }
}
"""


def _java(service: ServedProcess) -> str:
    if shutil.which("javac") is None:  # a runtime alone cannot run a source file
        return "not installed"
    source, image = service.folder / "Ask.java", service.folder / "image.png"
    source.write_text(_JAVA)
    image.write_bytes(IMAGE)
    command = ["java", str(source), f"{service.url}/v1/classify", str(image)]
    code = subprocess.run(command, capture_output=True, text=True).stdout
    expect(code == "200", f"the default client of Java got {code}")
    return code


@attack(15, "connections above the limit", options=("--max-connections", "20"), memory_mb=300)
def above_the_limit(service: ServedProcess) -> str:
    """They get one response and are closed; beyond some more, they are reset."""
    with ExitStack() as stack:
        others = [stack.enter_context(service.connect()) for _ in range(20)]
        for other in others[:-4]:  # the probe and the metrics take connections as well
            other.sendall(HEALTH)
            expect(other.recv(4096), "no answer")
        with service.connect() as client:
            client.sendall(post(IMAGE * 1000))
            refused = read_all(client)
        expect(statuses(refused) == [503], f"a connection above the limit got {statuses(refused)}")
        expect(b"connection: close" in refused.lower(), "the response does not say that the connection is closed")
        flood = []
        for _ in range(500):
            flood.append(stack.enter_context(service.connect()))
        time.sleep(0.5)
        files = service.files()
        expect(files < 300, f"{files} files are open")
    return f"{files} open files"


@attack(15, "requests that are odd but right", memory_mb=300)
def odd_requests(service: ServedProcess) -> str:
    """Half-closed connections, Expect on a pipelined request, a long Content-Length."""
    expect(ask(service, post() + post() + HEALTH) == [200] * 3, "a client that half-closes gets no answer")
    expect(ask(service, HEALTH.replace(b"/1.1", b"/1.0")) == [200], "the same with HTTP/1.0")
    zeros = post().replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5000)
    expect(ask(service, zeros) == [200], "a Content-Length of 5,000 zeros and a number is not read")
    with service.connect() as client:
        client.sendall(post() + post(IMAGE, "Expect: 100-continue")[: -len(IMAGE)])
        received = b""
        while not received.endswith(b"100 Continue\r\n\r\n"):
            part = client.recv(65536)
            expect(part, f"Expect on a pipelined request ended the connection after {statuses(received)}")
            received += part
        client.sendall(IMAGE)
        client.shutdown(socket.SHUT_WR)
        received += read_all(client)
    expect(statuses(received) == [200, 100, 200], f"Expect on a pipelined request got {statuses(received)}")
    return "answered"


@check(15, "TLS handshakes that never come")
def handshakes(folder: Path) -> str:
    """They count as connections, and end in the time limit for clients."""
    certificate, key = make_certificate(folder)
    options = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--client-timeout-seconds", "2")
    with serve(*options, "--max-connections", "50", ready=False) as service, ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=service.url.replace("http", "https"), verify=False))
        _wait_until_ready(client)
        before = service.files()
        started = time.monotonic()
        filled = [stack.enter_context(service.connect()) for _ in range(60)]
        time.sleep(0.5)
        with ssl._create_unverified_context().wrap_socket(service.connect(), server_hostname="localhost") as other:
            other.sendall(post())
            expect(statuses(read_all(other)) == [503], "handshakes do not count as connections")
        silent = filled + [stack.enter_context(service.connect()) for _ in range(1000)]
        time.sleep(0.5)
        expect(service.files() - before <= 50 + 128, f"{service.files() - before} handshakes are open")
        expect(client.get("/healthz").status_code == 200, "the service does not answer")
        for each in silent:
            read_all(each)
        seconds = time.monotonic() - started
        expect(seconds < 5, f"they were closed after {seconds:.1f} s")
        expect(client.post("/v1/classify", content=IMAGE).status_code == 200, "the service does not recover")
    return f"closed after {seconds:.1f} s"


def _wait_until_ready(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)


@check(15, "SIGHUP, and less than a second for the shutdown")
def shutdown(folder: Path) -> str:
    """Accepted requests are answered; a second is not rounded to none."""
    slow = ("--executor", "simulated:700", "--shutdown-seconds")
    for number, seconds in ((signal.SIGHUP, "5"), (signal.SIGTERM, "0.9"), (signal.SIGHUP, "0.9")):
        with serve(*slow, seconds) as service, service.connect() as client:
            client.sendall(post())
            time.sleep(0.2)
            service.process.send_signal(number)
            expect(statuses(read_all(client)) == [200], f"{number.name} with {seconds} s lost an accepted request")
            expect(service.process.wait(10) == 0, f"{number.name} ends with {service.process.returncode}")
    with serve("--shutdown-seconds", "1", "--client-timeout-seconds", "60") as service, ExitStack() as stack:
        parts = (b"", b"GET", post()[:-1], post() * 2000, HEALTH + b"GET", post() + post()[:-5])
        for part in parts:
            client = stack.enter_context(service.connect())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            if part:
                client.send(part)
        time.sleep(0.5)
        ended = service.terminate()
    expect(ended < 3, f"open connections delay the end to {ended:.1f} s")
    return f"ended in {ended:.1f} s"


@check(15, "X-Forwarded-For of a process that is no trusted proxy")
def forwarded(folder: Path) -> str:
    """Its addresses do not pass the rate limit, unless the proxy is named."""
    for options, expected in (((), {200, 429}), (("--trusted-proxies", "127.0.0.1"), {200})):
        with serve("--rate-limit", "0.01", "--rate-burst", "2", *options) as service:
            found = set()
            for number in range(10):
                headers = {"X-Forwarded-For": f"10.0.0.{number}"}
                found.add(httpx.post(f"{service.url}/v1/classify", content=IMAGE, headers=headers).status_code)
            expect(found == expected, f"with {options}: {found}")
    return "429"


@check(15, "few open files")
def open_files(folder: Path) -> str:
    """The limit of connections follows the limit of open files, or the service says what to do."""

    def limited(files: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "service", "--port", "0", "--max-connections", "4096"]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
        return subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        )

    few = limited(64)
    message = few.communicate(timeout=60)[1]
    expect(few.returncode == 2, f"with 64 files the service ends with {few.returncode}: {message}")
    expect("ulimit -n" in message and message.count("\n") == 1, f"the message is not clear: {message}")
    with limited(500) as process, ExitStack() as stack:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        port = next(
            int(found[1]) for line in lines if (found := re.search(r"listening on http://127.0.0.1:(\d+)", line))
        )
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(1000)]
        time.sleep(0.5)
        del clients
        process.terminate()
        rest = "".join(lines)
    expect("Too many open files" not in rest and "Traceback" not in rest, f"files ran out: {rest[-500:]}")
    return f"refused with: {message.strip()}"


@check(16, "HEAD on every path that has GET")
def head_requests(folder: Path) -> str:
    """The same status and headers as GET, and no body."""
    with serve() as service, httpx.Client(base_url=service.url) as client:
        index = json.loads(client.get("/openapi.json").content)
        name = client.get("/v1/models").json()["models"][0]["name"]
        paths = {
            path.replace("{model}", name).replace("{version}", "1")
            for path in index["paths"]
            if "get" in index["paths"][path]
        }
        for path in sorted({*READABLE, *paths}):
            got, headed = client.get(path), client.head(path)
            expect(headed.status_code == got.status_code, f"HEAD {path} gets {headed.status_code}")
            expect(headed.content == b"", f"HEAD {path} has a body")
            same = headed.headers.get("content-type") == got.headers.get("content-type")
            expect(same, f"HEAD {path} has other headers")
        expect(client.head("/v1/classify").status_code == 405, "HEAD on a path without GET is not refused")
    return f"{len({*READABLE, *paths})} paths"
