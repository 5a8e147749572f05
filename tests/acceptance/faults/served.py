"""A served process, and what one can see of it from outside."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

ROOT = Path(__file__).parents[3]
START_SECONDS = 60.0
END_SECONDS = 120.0


class ServedProcess:
    """`resnet-serve` in a process of its own, with default options unless others are given.

    Args:
        options: options of the service, without `--port`.
        folder: folder for the log.
        environment: changes to the environment.
    """

    def __init__(self, options: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "service.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                # With `nohup`, this process ignores SIGHUP, and so would the service.
                ["env", "--default-signal=HUP", sys.executable, "-m", "service", "--port", str(self.port), *options],
                stdout=log,
                stderr=log,
                env={**_without_settings(), "PYTHONPATH": str(ROOT), **environment},
                cwd=folder,
            )

    @property
    def log(self) -> str:
        """The log up to now."""
        return self._log.read_text(errors="replace")

    def connect(self, timeout: float = 30.0) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self._metrics(), re.M))

    def lags(self) -> dict[float, float]:
        """Measurements of the event loop's lag per upper bound of a bucket in seconds."""
        found = re.findall(r'^resnet_event_loop_lag_seconds_bucket{le="([^"]+)"} (\S+)$', self._metrics(), re.M)
        counts, below = {}, 0.0
        for bound, count in found:
            counts[float(bound)] = float(count) - below
            below = float(count)
        return counts

    def memory_mb(self) -> float:
        """Resident memory of the process now, in MB."""
        return self._status("VmRSS")

    def peak_mb(self) -> float:
        """Most resident memory since `reset_peak`, in MB."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Begin to measure the peak of the memory again."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def files(self) -> int:
        """Number of open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """Number of threads."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def address_space(self) -> int:
        """Size of the process's address space in bytes."""
        return int(self._status("VmSize") * 1e6)

    def wait_until_ready(self) -> None:
        """Wait until `/readyz` says 200.

        Raises:
            RuntimeError: the process ended.
            TimeoutError: it is not ready in time.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}:\n{self.log}")
            try:
                if httpx.get(f"{self.url}/readyz").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise TimeoutError(f"the service is not ready after {START_SECONDS:.0f} s:\n{self.log}")

    def terminate(self) -> float:
        """Send SIGTERM. Returns the seconds until the process ended."""
        started = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - started

    def _metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=30.0).text

    def _status(self, field: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.M)
        assert found is not None
        return int(found[1]) * 1024 / 1e6


@contextmanager
def serve(*options: str, ready: bool = True, **environment: str) -> Iterator[ServedProcess]:
    """A service on a free port; it is ended at the end, if it has not ended itself.

    Args:
        options: options of the service, without `--port`.
        ready: whether to wait until it is ready.
        environment: changes to the environment.
    """
    with TemporaryDirectory(prefix="faults-") as folder:
        service = ServedProcess(options, Path(folder), environment)
        try:
            if ready:
                service.wait_until_ready()
            yield service
        finally:
            if service.process.poll() is None:
                service.process.kill()
            service.process.wait()


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RESNET_SERVE_")}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
