"""`resnet-serve`; also `python -m service`."""

from __future__ import annotations

import gc
import logging
import resource
import signal
import socket
import sys
from functools import partial
from types import FrameType

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service import executors
from service.app import create_app
from service.core.former_names import replace_former_flags
from service.core.settings import Settings
from service.core.tls import TlsError, check_tls_files
from service.executors.base import ExecutorError
from service.http.api_keys import KeyFileError
from service.http.protocol import Connection
from service.registry.repository import LoadError, find_versions
from service.telemetry import log_config
from service.telemetry.tracing import TracingError, otlp_provider

_OTHER_FILES = 256
"""File descriptors besides those of connections."""
_GC_THRESHOLD = 50_000
"""Generation-0 threshold of the garbage collector: net allocations before a collection. A request leaves no reference
cycles; with the default of 700, collections took 4 % of the time of the event loop."""


def run() -> None:
    """Parse the settings, serve until SIGTERM or SIGINT, finish the requests in flight, exit with 0."""
    if sys.argv[1:2] == ["tune"]:
        from service.cli import tune

        tune.main(sys.argv[2:])
    # uvicorn raises the signal again after the shutdown; the process then exits with success.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    try:
        settings = CliApp.run(Settings, cli_args=replace_former_flags(sys.argv[1:]))
        found = find_versions(settings.repository)
        if found and settings.model not in (None, *found):
            raise LoadError(f"the repository has no model {settings.model!r}; there are: {', '.join(found)}")
        executors.find(settings.executor)
        log_config.configure(settings.log_format, settings.log_level)
        server = make_server(settings)
    except (ValidationError, LoadError, ExecutorError, KeyFileError, TlsError, TracingError) as error:
        sys.exit(_explain(error))
    server.run()


def make_server(settings: Settings) -> uvicorn.Server:
    """Make the server of the application. It does not listen yet.

    Raises:
        TlsError: the files for TLS cannot be used.
        TracingError: `tracing` is set, and traces cannot be sent.
    """
    if settings.ssl_certfile is not None:
        check_tls_files(settings.ssl_certfile, settings.ssl_keyfile)
    _allow_connections(settings.max_connections)
    connection = partial(
        Connection, max_connections=settings.max_connections, client_timeout_seconds=settings.client_timeout_seconds
    )
    return _Server(
        uvicorn.Config(
            create_app(settings, otlp_provider() if settings.tracing else None),
            host=settings.host,
            port=settings.port,
            http=connection,  # type: ignore[arg-type]
            ws="none",
            timeout_keep_alive=settings.keep_alive_seconds,
            access_log=False,
            log_config=None,
            log_level="warning",
            root_path=settings.root_path,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
            timeout_graceful_shutdown=int(settings.shutdown_seconds),
        )
    )


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        # The objects that exist now stay: collections over them took a sixth of the time of the event loop.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        for server in self.servers:  # after the bind, which selects the port if the setting is 0
            for bound in server.sockets:
                host, port = bound.getsockname()[:2]
                logging.info("listening on %s://%s:%d, the API is at /docs", scheme, host, port)


def _allow_connections(count: int) -> None:
    """Raise the limit of open files to the number that the connections need, or to the hard limit."""
    needed = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        logging.warning("the limit of open files is too low for %d connections: raise `ulimit -n` to %d", count, needed)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _explain(error: Exception) -> str | int:
    if isinstance(error, ValidationError):
        lines = [
            ": ".join([*map(str, item["loc"]), item["msg"].removeprefix("Value error, ")]) for item in error.errors()
        ]
    else:
        lines = [str(error)]
    print("error: " + "\n       ".join(lines), file=sys.stderr)
    return 2


if __name__ == "__main__":
    run()
