"""The main loop of the parent: starts the processes of the service, watches, replaces and ends them."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from service.supervisor.child import SIGNALS
from service.supervisor.watch import Part, WatchedProcess

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
"""Time between two looks at the processes. Signals are noticed at once."""
_END_SECONDS = 1.0
"""Time after `shutdown_seconds` in which all processes must have ended."""


class Supervisor:
    """Keeps an engine process and workers running until SIGTERM, SIGINT or SIGHUP. For Linux.

    The process must have one thread that runs Python code, so that it can fork.

    Args:
        engine: ends after the workers.
        workers: the processes that answer.
        shutdown_seconds: time limit for the workers to finish their requests.
        stop_listening: called when the end begins; closes the sockets of this process.
    """

    def __init__(
        self, engine: Part, workers: Sequence[Part], shutdown_seconds: float, stop_listening: Callable[[], None]
    ) -> None:
        self._engine = WatchedProcess(engine)
        self._workers = [WatchedProcess(part) for part in workers]
        self._processes = [self._engine, *self._workers]
        self._shutdown_seconds = shutdown_seconds
        self._stop_listening = stop_listening
        self._deadline: float | None = None
        """Time at which all processes must have ended; None until the end begins."""
        self._engine_told = False
        """Whether the engine process was told to end."""

    def run(self) -> int:
        """Run the processes.

        Returns:
            The exit status: 0, or 1 if a process had to be killed at the end.
        """
        gc.collect()
        gc.freeze()  # a collection of a child would write to objects, and so copy the memory it shares with the others
        with _wake_up_at_signals() as self._wake:
            looked = time.monotonic()
            while self._deadline is None or any(process.pid for process in self._processes):
                now = time.monotonic()
                self._reap(now)
                for process in self._processes:
                    process.start_if_due(now, self._wake.close)
                    process.look(now - looked)
                looked = now
                if self._deadline is not None and not self._continue_end(self._deadline, now):
                    return 1
                if not self._handle(self._wake.wait(_LOOK_SECONDS)):
                    return 1
        return 0

    def _handle(self, numbers: Sequence[int]) -> bool:
        """Begin the end if a signal asks for it. Returns whether the end may go on in order."""
        ending = [number for number in numbers if number != signal.SIGCHLD]
        if not ending:
            return True
        if self._deadline is None:
            log.info("%s: the service ends", signal.Signals(ending[0]).name)
            self._begin_end()
        elif ending != [signal.SIGHUP]:  # a closed terminal sends it more than once
            self._kill_all("a second signal: ended at once")
            return False
        return True

    def _begin_end(self) -> None:
        self._deadline = time.monotonic() + self._shutdown_seconds + _END_SECONDS
        self._stop_listening()
        for process in self._processes:
            process.cancel_start()
        for worker in self._workers:
            worker.send(signal.SIGTERM)

    def _continue_end(self, deadline: float, now: float) -> bool:
        """End the engine process after the workers. Returns False once the time is over, after killing all."""
        if now >= deadline:
            self._kill_all(f"the shutdown took more than {self._shutdown_seconds + _END_SECONDS:g} s: ended")
            return False
        if not self._engine_told and not any(worker.pid for worker in self._workers):
            self._engine_told = True
            self._engine.send(signal.SIGTERM)
        return True

    def _reap(self, now: float) -> None:
        """Note which processes have ended, were stopped or continued."""
        processes = {process.pid: process for process in self._processes}
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
                if pid == 0:
                    return
                if pid in processes:  # as the first process of a container, it also gets those of others
                    processes[pid].notice(status, now, replace=self._deadline is None)

    def _kill_all(self, message: str) -> None:
        print(message, file=sys.stderr)
        for process in self._processes:
            process.kill()
        end = time.monotonic() + _END_SECONDS  # a process in a system call of a driver may take longer
        while any(process.pid for process in self._processes) and time.monotonic() < end:
            self._wake.wait(_LOOK_SECONDS)
            self._reap(time.monotonic())


class _WakeUp:
    """Receives the numbers of signals, and ends a wait."""

    def __init__(self) -> None:
        self._reader, self.writer = socket.socketpair()
        self._reader.setblocking(False)
        self.writer.setblocking(False)

    def wait(self, seconds: float) -> bytes:
        """Wait for signals. Returns their numbers."""
        if not select.select([self._reader], [], [], seconds)[0]:
            return b""
        return self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self.writer.close()


@contextlib.contextmanager
def _wake_up_at_signals() -> Iterator[_WakeUp]:
    """Have signals end the wait of the loop. `nohup` ignores SIGHUP, and it stays ignored."""
    wake = _WakeUp()
    former = {number: signal.getsignal(number) for number in SIGNALS}
    former_writer = signal.set_wakeup_fd(wake.writer.fileno(), warn_on_full_buffer=False)
    for number, handler in former.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(former_writer)
        for number, handler in former.items():
            signal.signal(number, handler)
        wake.close()
