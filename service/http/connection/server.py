"""uvicorn's server: how it starts, which signals end it, and by when it has ended."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from service.core.settings import Settings
from service.core.settings.values import split_names
from service.core.tls import load_tls_files
from service.http.connection.listener import HandshakeLimits, Listener
from service.http.connection.protocol import REFUSED_CONNECTIONS, Connection

log = logging.getLogger(__name__)

_OTHER_FILES = 256
"""File descriptors besides those of connections."""
_END_SECONDS = 1.0
"""Time after `shutdown_seconds` for what is left: closing models, and threads that compute."""
_GC_THRESHOLD = 50_000
"""Generation-0 threshold of the garbage collector: net allocations before a collection. A request leaves no reference
cycles; with the default of 700, collections took 4 % of the time of the event loop."""


class FileLimitError(Exception):
    """The limit of open files leaves no connections; the message says how to raise it."""


@dataclass(frozen=True)
class Resources:
    """The means of a server that may be lacking on this machine."""

    max_connections: int
    """Connections that the limit of open files allows, at most those of the settings."""
    tls: ssl.SSLContext | None
    """Certificate and key; None without TLS."""

    @property
    def scheme(self) -> str:
        """First part of the URL."""
        return "http" if self.tls is None else "https"


def check_resources(settings: Settings, workers: int = 1) -> Resources:
    """Raise the limit of open files, and load the files for TLS.

    Args:
        settings: settings of the service.
        workers: processes that share the connections.

    Raises:
        FileLimitError: the limit of open files leaves no connections.
        TlsError: the files for TLS cannot be used.
    """
    protocols = 1 if settings.grpc_port is None else 2  # each takes as many connections
    max_connections = _allowed_connections(-(-settings.max_connections // workers), protocols)
    certificate = settings.ssl_certfile
    return Resources(
        max_connections, None if certificate is None else load_tls_files(certificate, settings.ssl_keyfile)
    )


class Server(uvicorn.Server):
    """The server of an application. It does not listen yet.

    Args:
        app: the application.
        settings: settings of the service.
        resources: checked before; by default they are checked now.
        begin_shutdown: called when the shutdown begins.

    Raises:
        FileLimitError: the limit of open files leaves no connections.
        TlsError: the files for TLS cannot be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        resources: Resources | None = None,
        begin_shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self._begin_shutdown = begin_shutdown
        self._resources = check_resources(settings) if resources is None else resources
        self._limits = HandshakeLimits(self._resources.max_connections, settings.client_timeout_seconds)
        self._protocol = partial(
            Connection,
            max_connections=self._limits.max_connections,
            refused=set(),
            client_timeout_seconds=settings.client_timeout_seconds,
        )
        proxies = split_names(settings.trusted_proxies)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=self._protocol,  # type: ignore[arg-type]
            ws="none",
            timeout_keep_alive=settings.keep_alive_seconds,
            access_log=False,
            log_config=None,
            log_level="warning",
            root_path=settings.root_path,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            timeout_graceful_shutdown=settings.shutdown_seconds,  # type: ignore[arg-type]
        )
        super().__init__(config)
        self._shutdown_seconds = settings.shutdown_seconds
        self._end: threading.Timer | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        if self._resources.tls is None:
            await super().startup(sockets)
        else:
            await self._start_listener(self.config.bind_socket())
        self._keep_objects()
        for server in self.servers:  # after the bind, which selects the port if the setting is 0
            log_listening(server.sockets, self._resources.scheme)

    def _keep_objects(self) -> None:
        # The objects that exist now stay: collections over them took a sixth of the time of the event loop.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)

    async def _start_listener(self, listening: socket.socket) -> None:
        await super().startup([])  # only the application
        listener = Listener(
            listening, self._resources.tls, self._make_protocol, self.server_state.connections, self._limits
        )
        listener.start(self.config.backlog)
        self.servers.append(listener)  # type: ignore[arg-type]

    def _make_protocol(self) -> Connection:
        return self._protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGHUP, which a closed terminal sends, end the server like SIGTERM, unless `nohup` ignores it."""
        with super().capture_signals():
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            if threading.current_thread() is threading.main_thread() and not ignored:
                signal.signal(signal.SIGHUP, self.handle_exit)
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests in flight, and have the other servers of the process do so at the same time."""
        self._begin_shutdown()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown, and end the process if it takes too long."""
        super().handle_exit(sig, frame)
        if self._end is None:
            self._end = threading.Timer(self._shutdown_seconds + _END_SECONDS, self._end_process)
            self._end.daemon = True  # it also runs while the interpreter waits for other threads
            self._end.start()

    def _end_process(self) -> None:
        print(f"the shutdown took more than {self._shutdown_seconds + _END_SECONDS:g} s: ended", file=sys.stderr)
        os._exit(1)


def log_listening(sockets: Iterable[socket.socket], scheme: str) -> None:
    """Log the addresses of sockets that listen."""
    for bound in sockets:
        host, port = bound.getsockname()[:2]
        logging.info("listening on %s://%s:%d, the API is at /docs", scheme, host, port)


def _allowed_connections(count: int, protocols: int = 1) -> int:
    """Raise the limit of open files to what the connections need. Returns how many it allows for each protocol."""
    other = _OTHER_FILES + REFUSED_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = protocols * count + other
    files = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    allowed = min(count, (files - other) // protocols)
    advice = f"raise `ulimit -n` to {needed}, or lower max_connections"
    if allowed < 1:
        raise FileLimitError(f"the limit of open files, {files}, leaves none for connections: {advice}")
    if allowed < count:
        log.warning("max_connections is %d, not %d, as the limit of open files is too low: %s", allowed, count, advice)
    return allowed
