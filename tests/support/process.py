"""The service and its health check as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Thread

from tests.support.service import TIMEOUT


def environment(**changes: str) -> dict[str, str]:
    """The environment without settings of the service, and with these changes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RESNET_SERVE_")} | changes


def start(*flags: object) -> subprocess.Popen[str]:
    """Start `python -m service`, whose output and log are pipes."""
    # With `nohup`, the tests ignore SIGHUP, and so would the service.
    command = ["env", "--default-signal=HUP", sys.executable, "-m", "service", *(str(flag) for flag in flags)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), bufsize=1
    )


class ServerProcess:
    """A service in a process of its own. A thread reads its log, so that the pipe never fills."""

    def __init__(self, *flags: object) -> None:
        self.process = start(*flags)
        self.url = ""
        """Set once it listens."""
        self._lines: list[str] = []
        self._ended = False
        self._changed = Condition()
        self._reader = Thread(target=self._read)
        self._reader.start()

    @property
    def log(self) -> str:
        """The log up to now."""
        with self._changed:
            return "".join(self._lines)

    def wait_for_log(self, pattern: str, seconds: float = TIMEOUT) -> re.Match[str]:
        """Wait for a line of the log, from the first on, that a regular expression is found in.

        Raises:
            AssertionError: the process ended without such a line, or the time is over.
        """
        expected = re.compile(pattern)
        found: re.Match[str] | None = None

        def done() -> bool:
            nonlocal found
            found = next(filter(None, map(expected.search, self._lines)), None)
            return found is not None or self._ended

        with self._changed:
            self._changed.wait_for(done, seconds)
            assert found is not None, f"no line with {pattern!r} in:\n{''.join(self._lines)}"
        return found

    def end(self, number: int = signal.SIGTERM) -> str:
        """Send a signal, expect success, and return the log."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> str:
        """Wait until the process ends by itself, expect success, and return the log."""
        code = self.process.wait(TIMEOUT)
        self._reader.join()
        assert self.process.stdout is not None
        assert (code, self.process.stdout.read()) == (0, ""), self.log
        assert "Traceback" not in self.log
        return self.log

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def running(*flags: object) -> Iterator[ServerProcess]:
    """Start the service on a free port, wait until it is ready, and kill it at the end."""
    server = ServerProcess("--port", 0, *flags)
    try:
        server.url = server.wait_for_log(r"listening on (https?://[\d.]+:\d+)")[1]
        server.wait_for_log(r'\bready"?}?$')
        yield server
    finally:
        server.kill()


def probe(**settings: str) -> subprocess.CompletedProcess[str]:
    """Run the health check with these environment variables."""
    command = [sys.executable, "-m", "service.cli.healthcheck"]
    return subprocess.run(command, env=environment(**settings), capture_output=True, text=True, timeout=TIMEOUT)
