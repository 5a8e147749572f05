"""A real server process, and what `/metrics` says."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    url: str

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = httpx.get(f"{self.url}/metrics", timeout=30.0).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(ready: Server, path: str = "/readyz", seconds: float = 60.0) -> None:
    """Ask until the server answers with success."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if httpx.get(ready.url + path).is_success:
                return
        except httpx.TransportError:
            if ready.process.poll() is not None:
                raise RuntimeError(f"the server ended with {ready.process.returncode}") from None
        time.sleep(0.05)
    raise TimeoutError(f"{path} did not answer within {seconds:.0f} s")


@contextmanager
def serve(*options: str) -> Iterator[Server]:
    """`python -m service` on a free port, ready; ended at the end if it has not ended itself. Shows its warnings."""
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, "-m", "service", "--port", str(port), *options], stderr=log)
        server = Server(process, f"http://127.0.0.1:{port}")
        try:
            wait_until(server)
            yield server
        finally:
            process.terminate()
            process.wait(30)
            log.seek(0)
            print("".join(line for line in log if '"level":"info"' not in line), file=sys.stderr, end="")
