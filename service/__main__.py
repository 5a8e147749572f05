"""`resnet-serve`; also `python -m service`."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service import executors
from service.app import create_app
from service.auth import KeyFileError
from service.executors import ExecutorError
from service.repository import LoadError, find_versions
from service.settings import Settings


def run() -> None:
    """Parse the settings, serve until SIGTERM or SIGINT, finish what was accepted, exit with 0."""
    # uvicorn raises the signal again when it is done: it then ends the process as a success.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = CliApp.run(Settings)
        found = find_versions(settings.repository)
        if found and settings.model not in (None, *found):
            raise LoadError(f"the repository holds no model {settings.model!r}; there is: {', '.join(found)}")
        executors.find(settings.executor)
        app = create_app(settings)
    except (ValidationError, LoadError, ExecutorError, KeyFileError) as error:
        sys.exit(_explain(error))
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,
            log_level="warning",
            root_path=settings.root_path,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
            timeout_graceful_shutdown=int(settings.shutdown_seconds),
        )
    )
    server.run()


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        for server in self.servers:  # only now is a port that was asked for as 0 known, and that it was free
            for bound in server.sockets:
                host, port = bound.getsockname()[:2]
                logging.info("listening on %s://%s:%d, the API is at /docs", scheme, host, port)


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
