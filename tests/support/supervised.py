"""A service of several processes with trivial parts: `python -m tests.support.supervised KIND [SETTING...]`.

Processes write events to standard output: `begin NAME PID` and `end NAME PID`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Timer

import httpx
from fastapi import FastAPI
from pydantic_settings import CliApp

from service.core.choices import LogFormat
from service.core.settings import Settings
from service.http.connection.shared_server import SharedServer
from service.supervisor import watch
from service.supervisor.launch import EngineProcess, Worker, serve
from service.supervisor.supervisor import Supervisor
from service.supervisor.watch import Part
from service.telemetry import log_config
from service.telemetry.sheet import Sheet
from tests.support.service import TIMEOUT

WORKERS = 4


def tell(event: str, name: str) -> None:
    os.write(1, f"{event} {name} {os.getpid()}\n".encode())


def beat(sheet: Sheet) -> None:
    """Write heartbeats until SIGTERM."""
    try:
        sheet.loading = False
        tell("begin", sheet.name)
        while True:
            sheet.beat()
            Event().wait(0.02)
    finally:
        tell("end", sheet.name)


def fall_silent(sheet: Sheet) -> None:
    """Live without heartbeats."""
    sheet.loading = False
    tell("begin", sheet.name)
    signal.pause()


def fail(sheet: Sheet) -> None:
    """End at once."""
    tell("begin", sheet.name)
    raise ValueError("this part always fails")


def ignore_end(sheet: Sheet) -> None:
    """Live on after SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    beat(sheet)


KINDS: dict[str, Callable[[Sheet], None]] = {
    "beat": beat,
    "fall_silent": fall_silent,
    "fail": fail,
    "ignore_end": ignore_end,
}
"""Functions for worker 1; worker 2 and the engine process beat."""


def supervise(kind: str) -> int:
    """Run an engine process and two workers."""
    watch.STOPPED_SECONDS = 0.3
    if kind == "fall_silent":
        watch.SILENT_SECONDS = 1.0
    log_config.configure_without_thread(LogFormat.text)
    runs = {"worker-1": KINDS[kind], "worker-2": beat, "engine": beat}
    parts = {name: Part(name, partial(run, sheet), sheet) for name, run in runs.items() for sheet in [Sheet(name)]}
    engine = parts.pop("engine")
    return Supervisor(engine, list(parts.values()), 0.1 if kind == "ignore_end" else 30.0, lambda: None).run()


def answer(worker: Worker) -> None:
    """Answer each request with the number of the worker."""

    async def beat_always() -> None:
        while True:
            worker.sheet.beat()
            await asyncio.get_running_loop().run_in_executor(None, Event().wait, 0.02)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(beat_always())
        tell("begin", worker.sheet.name)
        yield
        task.cancel()
        tell("end", worker.sheet.name)

    app = FastAPI(lifespan=lifespan)
    app.get("/")(lambda: worker.number)
    SharedServer(app, worker.settings, worker.shared).run()


def compute(engine: EngineProcess) -> None:
    beat(engine.sheet)


class Supervised:
    """Such a service in a process of its own, whose events are read. With `nohup` it ignores SIGHUP."""

    def __init__(self, *arguments: str, nohup: bool) -> None:
        hangup = "--ignore-signal=HUP" if nohup else "--default-signal=HUP"
        self.process = subprocess.Popen(
            ["env", hangup, sys.executable, "-m", __name__, *arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        self._limit = Timer(TIMEOUT, self.process.kill)  # all reads then end
        self._limit.start()

    def kill(self) -> None:
        self._limit.cancel()
        self.process.kill()
        self.process.communicate()

    def event(self) -> tuple[str, str, int]:
        """The next event: its kind, and the name and the id of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        kind, name, pid = line.split()
        return kind, name, int(pid)

    def begin(self, count: int) -> dict[str, int]:
        """The next processes that begin."""
        events = [self.event() for _ in range(count)]
        assert {kind for kind, *_ in events} == {"begin"}
        return {name: pid for _, name, pid in events}

    def line(self, words: str) -> str:
        """The next line of the log with these words."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if words in line)

    def log(self) -> str:
        """The rest of the log, until all processes have ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def end(self, number: int = signal.SIGTERM, to_all: bool = False) -> tuple[int, list[str]]:
        """Send a signal to the parent, or to all processes.

        Returns:
            The exit status, and the names of the processes in the order in which they end.
        """
        (os.killpg if to_all else os.kill)(self.process.pid, number)
        assert self.process.stdout is not None
        ended = [line.split()[1] for line in self.process.stdout if line.startswith("end")]
        return self.process.wait(), ended


@contextmanager
def supervised(*arguments: str, nohup: bool = False) -> Iterator[Supervised]:
    """Run such a service; it ends with the context."""
    service = Supervised(*arguments, nohup=nohup)
    try:
        yield service
    finally:
        service.kill()


def ask_each(url: str, count: int, verify: ssl.SSLContext | bool = True) -> list[int]:
    """Open connections one after the other, and keep them open. Returns the worker that answered on each."""
    clients = [httpx.Client(verify=verify) for _ in range(count)]
    workers = [int(client.get(url).raise_for_status().text) for client in clients]
    for client in clients:
        client.close()
    return workers


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        settings = CliApp.run(Settings, cli_args=sys.argv[2:])
        log_config.configure_without_thread(LogFormat.text)
        sys.exit(serve(settings, WORKERS, compute, answer))
    sys.exit(supervise(sys.argv[1]))
