"""An executor in a process of its own.

A native runtime that crashes does not take the service with it: the process is started again, and the batch tried once
more. It costs a process's memory and a few microseconds an image for the way there and back.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any

from models.imaging.preprocess import UInt8Array
from service.executors import Runtime, find
from service.executors.base import DeviceLost, ExecutorError, Float32Array, HostExecutor, Source, compute

log = logging.getLogger(__name__)

_SECONDS_TO_END = 10


def isolate(runtime: Runtime) -> Runtime:
    """The same runtime, with a process for each executor."""
    return replace(runtime, make=partial(Isolated, runtime.name))


class ProcessDied(Exception):
    """The executor's process ended in the midst of a batch, twice."""


class Isolated(HostExecutor):
    """The executor of a name, in another process; used by one thread.

    Args:
        name: as `executors.find` takes it.
        source: what the executor is to load.

    Raises:
        ExecutorError: it cannot be loaded.
    """

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(source)
        self._name = name
        self._source = source
        self._max_batch: int | None = None
        self._start()

    @property
    def process(self) -> int:
        """Number of the process."""
        return self._process.pid

    def prepare(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._ask("prepare", max_batch)

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        for _ in range(2):
            try:
                answer: dict[str, Float32Array] = self._ask("compute", images, outputs)
                return answer
            except (EOFError, OSError):
                self._restart()
        raise ProcessDied(f"a batch of {len(images)} ended the process of executor {self._name!r} twice")

    def close(self) -> None:
        self._close()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            end = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.engine.isolated", str(end)], pass_fds=[end]
            )
        try:
            self.computes, self.device, self.buckets = self._ask(self._name, self._source)
        except (EOFError, OSError):
            raise ExecutorError(f"executor {self._name!r}: its process ended with {self._close()}") from None
        except ExecutorError:
            self._close()
            raise

    def _restart(self) -> None:
        """A new process in place of one that has ended.

        Raises:
            DeviceLost: it cannot be started.
        """
        log.error("executor %r: its process ended with %s, and is started again", self._name, self._close())
        try:
            self._start()
            if self._max_batch is not None:
                self.prepare(self._max_batch)
        except (EOFError, OSError, ExecutorError) as error:
            raise DeviceLost(f"executor {self._name!r}: {error}") from error

    def _ask(self, *question: object) -> Any:
        self._connection.send(question)
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _close(self) -> str:
        """Let the process end; how it did."""
        self._connection.close()
        try:
            code = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def answer(connection: Connection) -> None:
    """Load what the first message says, and do one thing after another until nobody asks any more."""
    name, source = connection.recv()
    try:
        executor = find(name).make(source)
    except ExecutorError as error:
        connection.send(error)
        return
    connection.send((executor.computes, executor.device, executor.buckets))
    tasks: dict[str, Callable[..., Any]] = {"prepare": executor.prepare, "compute": partial(compute, executor)}
    while True:
        try:
            task, *arguments = connection.recv()
        except EOFError:
            break
        try:
            connection.send(tasks[task](*arguments))
        except Exception as error:  # whatever a native runtime raises belongs to whoever asked
            connection.send(_sendable(error))
    executor.close()


def _sendable(error: Exception) -> Exception:
    # Exceptions of native runtimes need not survive pickling.
    return error if isinstance(error, DeviceLost) else RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    # A terminal's Ctrl-C goes to every process; this one ends when its service closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answer(Connection(int(sys.argv[1])))
