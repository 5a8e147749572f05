"""Asks `/healthz` every 20 ms from a process of its own, which no work of the test delays."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time

INTERVAL = 0.02
TIMEOUT = 30.0


class HealthProbe:
    """Probes a service while it is entered.

    Args:
        port: port of the service on this machine.
        active: False to measure nothing.
    """

    def __init__(self, port: int, active: bool = True) -> None:
        self._port = port
        self._active = active
        self.longest = 0.0
        """Time of the slowest answer in seconds, known at the end."""

    def __enter__(self) -> HealthProbe:
        if self._active:
            command = [sys.executable, "-m", __name__, str(self._port)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self._process.stdout is not None
            self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            output, _errors = self._process.communicate("\n", timeout=2 * TIMEOUT)
            self.longest = float(output)


def _probe(port: int) -> None:
    """Probe until standard input has a line; then print the time of the slowest answer."""
    ended = threading.Event()

    def wait_for_line() -> None:
        sys.stdin.readline()
        ended.set()

    threading.Thread(target=wait_for_line, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    longest = 0.0
    print(flush=True)
    while not ended.is_set():
        started = time.monotonic()
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
        longest = max(longest, time.monotonic() - started)
        time.sleep(INTERVAL)
    print(longest)


if __name__ == "__main__":
    _probe(int(sys.argv[1]))
