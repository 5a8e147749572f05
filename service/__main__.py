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
from service.core.former_names import rename_flags
from service.core.settings import Settings
from service.executors.base import ExecutorError
from service.http.api_keys import KeyFileError
from service.http.protocol import Connection
from service.registry.repository import LoadError, find_versions
from service.telemetry import log_config
from service.telemetry.tracing import TracingError, otlp_provider

_OTHER_FILES = 256
_GARBAGE = 50_000
"""Objects, beyond those that were freed, after which those that refer to one another are looked for. A request leaves
none behind, so it is only what many requests at once hold; the default of 700 was 4 % of the event loop's time."""


def run() -> None:
    """Parse the settings, serve until SIGTERM or SIGINT, finish what was accepted, exit with 0."""
    if sys.argv[1:2] == ["tune"]:
        from service.cli import tune

        tune.main(sys.argv[2:])
    # uvicorn raises the signal again when it is done: it then ends the process as a success.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    try:
        settings = CliApp.run(Settings, cli_args=rename_flags(sys.argv[1:]))
        found = find_versions(settings.repository)
        if found and settings.model not in (None, *found):
            raise LoadError(f"the repository holds no model {settings.model!r}; there is: {', '.join(found)}")
        executors.find(settings.executor)
        log_config.configure(settings.log_format, settings.log_level)
        server = make_server(settings)
    except (ValidationError, LoadError, ExecutorError, KeyFileError, TracingError) as error:
        sys.exit(_explain(error))
    server.run()


def make_server(settings: Settings) -> uvicorn.Server:
    """The server of the application, which has not begun to listen.

    Raises:
        TracingError: traces are wanted and cannot be sent.
    """
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
        # What is there now stays; looking through it for garbage again and again took a sixth of the event loop's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        for server in self.servers:  # only now is a port that was asked for as 0 known, and that it was free
            for bound in server.sockets:
                host, port = bound.getsockname()[:2]
                logging.info("listening on %s://%s:%d, the API is at /docs", scheme, host, port)


def _allow_connections(count: int) -> None:
    """Raise the limit of open files to what the connections need, as far as that is allowed."""
    wanted = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logging.warning("%d connections need more open files than are allowed: raise `ulimit -n` to %d", count, wanted)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _explain(error: Exception) -> str | int:
    if isinstance(error, ValidationError):
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    else:
        lines = [str(error)]
    print("error: " + "\n       ".join(lines), file=sys.stderr)
    return 2


if __name__ == "__main__":
    run()
