"""One process that the supervisor keeps running: whether it lives, stands still, or must be started again."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from service.supervisor.child import start_child
from service.telemetry.sheet import Sheet

log = logging.getLogger(__name__)

STOPPED_SECONDS = 1.0
"""Time after which a process that a signal has stopped is killed."""
SILENT_SECONDS = 10.0
"""Time without a heartbeat after which a process is killed."""
LOADING_SECONDS = 300.0
"""The same for a process that starts or loads models: a runtime may hold the interpreter lock meanwhile."""
_QUICK_SECONDS = 1.0
"""A process that ends before this age makes the next one wait longer."""
_MAX_PAUSE = 5.0
_MAX_STEP = 0.25
"""Most time that counts between two looks. After a pause of the whole service, by SIGSTOP, a debugger or a frozen
container, the processes did not stand still by themselves."""


@dataclass(frozen=True)
class Part:
    """A part of the service with a process of its own."""

    name: str
    """Such as "worker 1"."""
    run: Callable[[], None]
    """Runs in the process, until SIGTERM."""
    sheet: Sheet


def pause_before_start(quick_ends: int) -> float:
    """Seconds before a process is started again.

    Args:
        quick_ends: how many processes in a row ended right after their start.
    """
    return 0.0 if quick_ends < 2 else min(_MAX_PAUSE, 0.25 * 2.0 ** min(quick_ends - 2, 10))


class WatchedProcess:
    """Starts the process of a part, notices how it is, and kills it if it stands still."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.pid: int | None = None
        """None while there is no process."""
        self._started = 0.0
        self._quick_ends = 0
        self._start_at: float | None = 0.0
        """Time of the next start; None if there is none."""
        self._stopped = False
        self._stopped_seconds = 0.0
        self._silent_seconds = 0.0
        self._heartbeat = 0.0
        self._killed = False

    def start_if_due(self, now: float, prepare: Callable[[], None]) -> None:
        """Start the process if its time has come.

        Args:
            now: monotonic time, seconds.
            prepare: called first in the new process.
        """
        if self._start_at is None or now < self._start_at:
            return

        def run() -> None:
            prepare()
            self.part.sheet.begin()
            self.part.sheet.loading = True
            self.part.run()

        try:
            self.pid = start_child(run)
        except OSError as error:
            log.error("%s cannot be started: %s", self.part.name, error.strerror)
            self._plan_start(now, quick=True)
            return
        self._started, self._start_at = now, None
        self._stopped = self._killed = False
        self._stopped_seconds = self._silent_seconds = 0.0

    def cancel_start(self) -> None:
        """Do not start the process again."""
        self._start_at = None

    def notice(self, status: int, now: float, replace: bool) -> None:
        """Note a change of the process.

        Args:
            status: as `os.waitpid` returns it.
            now: monotonic time, seconds.
            replace: whether to start another process after the end of this one.
        """
        if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
            self._stopped, self._stopped_seconds = os.WIFSTOPPED(status), 0.0
            return
        pid, self.pid = self.pid, None
        self.part.sheet.end()
        how = _describe_end(os.waitstatus_to_exitcode(status))
        if not replace:
            log.info("%s (process %d) %s", self.part.name, pid, how)
            return
        pause = self._plan_start(now, quick=now - self._started < _QUICK_SECONDS)
        when = f" in {pause:g} s, because it ended right after its start {self._quick_ends} times" if pause else ""
        log.warning("%s (process %d) %s: it is replaced%s", self.part.name, pid, how, when)

    def look(self, elapsed: float) -> None:
        """Kill the process if it stands still.

        Args:
            elapsed: seconds since the last look.
        """
        if self.pid is None or self._killed:
            return
        elapsed = min(elapsed, _MAX_STEP)
        self._stopped_seconds += elapsed if self._stopped else 0.0
        heartbeat = self.part.sheet.heartbeat
        self._silent_seconds = self._silent_seconds + elapsed if heartbeat == self._heartbeat else 0.0
        self._heartbeat = heartbeat
        limit = LOADING_SECONDS if self.part.sheet.loading else SILENT_SECONDS
        if self._stopped_seconds >= STOPPED_SECONDS:
            log.error("%s (process %d) was stopped by a signal: it is killed", self.part.name, self.pid)
            self.kill()
        elif self._silent_seconds >= limit:
            log.error("%s (process %d) stands still for %g s: it is killed", self.part.name, self.pid, limit)
            self.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one. It is not reaped yet, so its id is still its own."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, if there is one."""
        self._killed = True
        self.send(signal.SIGKILL)

    def _plan_start(self, now: float, quick: bool) -> float:
        """Plan the next start. Returns the seconds until then."""
        self._quick_ends = self._quick_ends + 1 if quick else 0
        pause = pause_before_start(self._quick_ends)
        self._start_at = now + pause
        return pause


def _describe_end(code: int) -> str:
    return f"ended with status {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
