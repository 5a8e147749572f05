"""Starts the service as several processes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from service.core.api_keys import ApiKeyStore
from service.core.settings import Settings
from service.http.connection.server import check_resources, log_listening
from service.http.connection.shared_server import SharedSockets
from service.remote import address
from service.supervisor.listening import close_all, listen
from service.supervisor.supervisor import Supervisor
from service.supervisor.watch import Part
from service.telemetry import log_config
from service.telemetry.sheet import Sheet

_T = TypeVar("_T")


@dataclass(frozen=True)
class EngineProcess:
    """The means of the engine process."""

    settings: Settings
    sheet: Sheet
    """Its own. `loading` is set at the start: to be cleared once its event loop writes heartbeats."""
    sheets: Sequence[Sheet]
    """Those of all processes: workers in their order, then the engine process."""
    listening: socket.socket
    """Listens for workers (AF_UNIX); a replaced process has the same one."""


@dataclass(frozen=True)
class Worker:
    """The means of a worker."""

    number: int
    """From 1 on."""
    settings: Settings
    sheet: Sheet
    """Its own."""
    sheets: Sequence[Sheet]
    """Those of all processes."""
    engine_address: bytes
    """Address (AF_UNIX) at which the engine process listens."""
    shared: SharedSockets
    """For `SharedServer`."""
    keys: ApiKeyStore | None
    """API keys, which were valid at the start of the service; None if requests need no key."""


def serve(
    settings: Settings, workers: int, run_engine: Callable[[EngineProcess], None], run_worker: Callable[[Worker], None]
) -> int:
    """Run the service until a signal ends it.

    Args:
        settings: settings of the service.
        workers: number of workers.
        run_engine: runs in the engine process, until SIGTERM.
        run_worker: runs in each worker, until SIGTERM.

    Returns:
        The exit status.

    Raises:
        FileLimitError: the limit of open files leaves no connections.
        KeyFileError: the file of API keys is not valid.
        TlsError: the files for TLS cannot be used.
    """
    resources = check_resources(settings, workers)
    keys = None if settings.api_keys is None else ApiKeyStore(settings.api_keys)
    sockets = listen(settings.host, settings.port)
    engine_socket = address.listen()
    sheets = [*(Sheet(f"worker-{number}") for number in range(1, workers + 1)), Sheet("engine")]
    parts = []
    for number, own in enumerate(sheets[:-1], 1):
        others = [sheet for sheet in sheets[:-1] if sheet is not own]
        shared = SharedSockets(sockets, resources, own, others)
        worker = Worker(number, settings, own, sheets, engine_socket.getsockname(), shared, keys)
        parts.append(Part(f"worker {number}", partial(_run, run_worker, worker, settings, [engine_socket]), own))
    engine = EngineProcess(settings, sheets[-1], sheets, engine_socket)
    part = Part("the engine process", partial(_run, run_engine, engine, settings, sockets), engine.sheet)
    log_listening(sockets, resources.scheme)
    stop_listening = partial(close_all, [*sockets, engine_socket])
    return Supervisor(part, parts, settings.shutdown_seconds, stop_listening).run()


def _run(run: Callable[[_T], None], process: _T, settings: Settings, unused: Sequence[socket.socket]) -> None:
    """Run a process of the service, after the fork."""
    log_config.configure(settings.log_format, settings.log_level, shared=True)
    close_all(unused)
    run(process)
