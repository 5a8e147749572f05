"""A stand-in for a model hub and its CDN on loopback, which also serves plain files and can misbehave."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import unquote, urlsplit

_LARGE = (".safetensors", ".bin", ".pth")
"""Files that the hub keeps in its CDN, and leads to with a signed address."""
_SIGNATURE = "Signature=of-the-stand-in"
_TOKEN = "hf_standin"


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    range: str | None
    token: str | None

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass
class Misbehaviour:
    """Faults of the next answers with the content of a file, by the file's name."""

    breaks: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of bytes after which the next answers end."""
    stalls: dict[str, int] = field(default_factory=dict)
    """Numbers of bytes after which answers wait until the stand-in ends."""
    reset: bool = False
    """Whether connections end by a reset."""
    content: dict[str, bytes] = field(default_factory=dict)
    """Content that is sent in place of the announced one."""
    length: dict[str, int] = field(default_factory=dict)
    """Announced length of answers."""
    endless: set[str] = field(default_factory=set)
    """Files whose content never ends."""
    no_ranges: bool = False
    """Whether requests for a part are answered with the whole file."""
    location: dict[str, str] = field(default_factory=dict)
    """Addresses that requests are redirected to."""
    status: dict[str, int] = field(default_factory=dict)
    """Status of answers without content."""


class StandIn:
    """The state of the hub. Attributes may be changed while it runs."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], str] = {}
        """Commit by model and revision."""
        self.trees: dict[tuple[str, str], dict[str, bytes]] = {}
        """Files by model and commit."""
        self.files: dict[str, bytes] = {}
        """Plain files at /files/, for names of torchvision and addresses."""
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.faults = Misbehaviour()
        self.requests: list[Seen] = []
        self.url = self.cdn_url = ""
        self.stalled, self.ended = threading.Event(), threading.Event()

    def add(self, model: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Add a commit to a model; returns the commit."""
        name = hashlib.sha1(repr((model, revision, sorted(files.items()))).encode()).hexdigest()
        self.trees[model, name] = dict(files)
        self.commits[model, revision] = self.commits[model, name] = name
        return name

    def fetched(self, file: str) -> list[Seen]:
        """The requests for the content of a file."""
        return [seen for seen in self.requests if seen.method == "GET" and urlsplit(seen.path).path.endswith(file)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> StandIn:
        return cast(StandIn, self.server.state)  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        token = self.headers.get("Authorization")
        self.state.requests.append(Seen(self.command, self.path, self.headers.get("Range"), token))
        path = unquote(urlsplit(self.path).path)
        name = path.rpartition("/")[2]
        if status := self.state.faults.status.get(name):
            self._answer(status)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        elif location := self.state.faults.location.get(name):
            self._answer(302, {"Location": location})
        elif path.startswith("/cdn/") and _SIGNATURE in self.path and token is None:
            self._send(name, self.state.files[path.removeprefix("/cdn/")])
        elif path.startswith("/files/") and name in self.state.files:
            self._send(name, self.state.files[name])
        else:
            self._answer(404)

    def _resolve(self, model: str, revision: str, file: str) -> None:
        state, known = self.state, self.headers.get("Authorization") == f"Bearer {_TOKEN}"
        commit = state.commits.get((model, revision))
        if not any(model == each for each, _ in state.commits) or (model in state.private and not known):
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif model in state.gated and not known:
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif self.headers.get("Authorization") and not known:
            self._answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif commit is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif file not in state.trees[model, commit]:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif file.endswith(_LARGE):
            content = state.trees[model, commit][file]
            digest = hashlib.sha256(content).hexdigest()
            state.files[f"{digest}/{file}"] = content
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": commit}
            signed = f"{state.cdn_url}/cdn/{digest}/{file}?{_SIGNATURE}"
            self._answer(302, {"Location": state.faults.location.get(file, signed), **linked})
        elif location := state.faults.location.get(file):
            self._answer(302, {"Location": location})
        else:
            content = state.trees[model, commit][file]
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self._send(file, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _answer(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, file: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        faults = self.state.faults
        content = faults.content.get(file, content)
        etag = (headers or {}).get("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        begin, total = 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not faults.no_ranges and self.headers.get("If-Range", etag) == etag:
            begin = int(asked[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        for name, value in {"ETag": etag, "Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, value)
        if file in faults.endless and self.command == "GET":
            self._send_for_ever()
            return
        self.send_header("Content-Length", str(faults.length.get(file, total - begin)))
        self.end_headers()
        if self.command == "GET":
            self._write(file, content[begin:])

    def _write(self, file: str, body: bytes) -> None:
        if file in self.state.faults.stalls:
            self.wfile.write(body[: self.state.faults.stalls.pop(file)])
            self.state.stalled.set()
            self.state.ended.wait()
            self.close_connection = True
            return
        positions = self.state.faults.breaks.get(file, [])
        if not positions:
            self.wfile.write(body)
            return
        self.wfile.write(body[: positions.pop(0)])
        self.wfile.flush()
        if self.state.faults.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _send_for_ever(self) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        block = b"\0" * 2**20
        try:
            while True:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        except OSError:
            return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, state: StandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A running hub, and its CDN on another port."""
    state = StandIn()
    servers = [_Server(state), _Server(state)]
    state.url, state.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
