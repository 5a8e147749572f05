"""The command `resnet-serve`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from logging import LogRecord
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError
from pydantic_settings import CliApp

from models import malloc
from service import executors
from service.app import create_app
from service.core import threads
from service.core.api_keys import KeyFileError
from service.core.settings import Settings
from service.core.settings.former_names import replace_former_flags
from service.core.tls import TlsError
from service.executors.base import ExecutorError
from service.grpc import prepare
from service.grpc.errors import GrpcError
from service.http.connection.server import FileLimitError, Server
from service.registry.repository import LoadError, find_versions
from service.supervisor.listening import check_port
from service.telemetry import log_config
from service.telemetry.tracing import TracingError, otlp_provider

_MISTAKES = (
    ValidationError,
    LoadError,
    ExecutorError,
    FileLimitError,
    GrpcError,
    KeyFileError,
    TlsError,
    TracingError,
)
"""Errors that end the start with one sentence."""
_GPU_DRIVER = Path("/dev/nvidiactl")
"""Is there on every machine with a GPU that computes."""


def serve() -> None:
    """Parse the settings, serve until SIGTERM, SIGINT or SIGHUP, finish the requests in flight, exit with 0."""
    if sys.argv[1:2] == ["tune"]:
        from service.cli import tune

        tune.main(sys.argv[2:])
    # SageMaker runs a container with the argument `serve`.
    arguments = sys.argv[2:] if sys.argv[1:2] == ["serve"] else sys.argv[1:]
    # uvicorn raises the signal again after the shutdown; the process then exits with success.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` sets it for SIGHUP
            signal.signal(number, _exit)
    try:
        # The settings decide the format of the log, and warn of variables and former names before that.
        with log_config.hold_lines() as lines:
            settings = CliApp.run(Settings, cli_args=replace_former_flags(arguments))
        # The copy of a repository in object storage is made after the start.
        found = find_versions(settings.repository, settings.only_model) if isinstance(settings.repository, Path) else {}
        if found and settings.model not in (None, *found):
            raise LoadError(f"the repository has no model {settings.model!r}; there are: {', '.join(found)}")
        if (workers := _count_workers(settings)) > 1:
            _serve_with_workers(settings, workers, lines)
        executors.find(settings.executor)
        log_config.configure(settings.log_format, settings.log_level)
        log_config.write_lines(lines)
        malloc.return_large_blocks()
        check_port(settings.host, settings.port)  # before models are loaded
        settings, _grpc_port = prepare.reserve(settings)  # kept until the end
        server = make_server(settings)
    except _MISTAKES as error:
        sys.exit(_explain(error))
    try:
        server.run()
    except SystemExit as end:
        if threads.running():
            _end_at_once(end)
        raise


def _end_at_once(end: SystemExit) -> NoReturn:
    """End without the last steps of Python, which abort the process if native code returns to them, such as a load."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(end.code if isinstance(end.code, int) else 1)


def _count_workers(settings: Settings) -> int:
    """The number of processes that answer; 1 if this process does everything."""
    if settings.workers == 1 or (settings.workers is None and not _GPU_DRIVER.exists()):
        return 1
    from service.supervisor.worker_count import decide_workers  # not needed by one process

    return decide_workers(settings)


def _serve_with_workers(settings: Settings, workers: int, lines: Sequence[LogRecord]) -> NoReturn:
    from service import processes

    log_config.configure_without_thread(settings.log_format, settings.log_level)
    log_config.write_lines(lines)
    sys.exit(processes.serve(settings, workers))


def make_server(settings: Settings) -> Server:
    """Make the server of the application. It does not listen yet.

    Raises:
        FileLimitError: the limit of open files leaves no connections.
        GrpcError: the protocol of gRPC was not compiled.
        TlsError: the files for TLS cannot be used.
        TracingError: `tracing` is set, and traces cannot be sent.
    """
    app = create_app(settings, otlp_provider() if settings.tracing else None)
    return Server(app, settings, begin_shutdown=app.state.begin_shutdown)


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
