"""The service and its health check as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

import httpx

from tests.support.service import TIMEOUT

ATTEMPTS = 5000
"""Polls over HTTP until something is given up."""


def start(*flags: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RESNET_SERVE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "service", *(str(flag) for flag in flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@contextmanager
def running(*flags: object, verify: ssl.SSLContext | bool = True) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A ready server on a free port, and its address; killed at the end, and after a minute in any case."""
    process = start("--port", 0, *flags)
    watchdog = Timer(TIMEOUT, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        url, log, ready = "", "", False
        while not (url and ready):  # blocks until a line comes, or the end of a process that has died
            line = process.stderr.readline()
            assert line, f"the server ended before it was ready:\n{log}"
            log += line
            if listening := re.search(r"listening on (https?://[\d.]+:\d+)", line):
                url = listening[1]
            ready = ready or " ready in " in line
        assert any(httpx.get(f"{url}/readyz", verify=verify).status_code == 200 for _ in range(ATTEMPTS))
        yield process, url
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """Send a signal, expect success, and give what was printed."""
    process.send_signal(number)
    printed, logged = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, logged
    assert printed == ""
    assert "Traceback" not in logged
    return logged


def probe(**environment: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("RESNET_SERVE_")}
    command = [sys.executable, "-m", "service.cli.healthcheck"]
    return subprocess.run(command, env=others | environment, capture_output=True, text=True, timeout=TIMEOUT)
