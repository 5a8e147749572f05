"""A served process, and what one can see of it from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests.acceptance.server import Server, free_port, wait_until
from tests.support.process import environment as without_settings

ROOT = Path(__file__).parents[3]
END_SECONDS = 120.0
_SHOWN_CHARACTERS = 5000
"""Of the end of the log, if a case fails."""


class ServedProcess(Server):
    """`resnet-serve` in a process of its own, with default options unless others are given.

    Args:
        options: options of the service, without `--port`.
        folder: folder for the log.
        environment: changes to the environment.
        module: the module that is run.
    """

    def __init__(
        self, options: tuple[str, ...], folder: Path, environment: Mapping[str, str], module: str = "service"
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "service.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                # With `nohup`, this process ignores SIGHUP, and so would the service.
                ["env", "--default-signal=HUP", sys.executable, "-m", module, "--port", str(self.port), *options],
                stdout=log,
                stderr=log,
                env=without_settings(PYTHONPATH=str(ROOT), **environment),
                cwd=folder,
                process_group=0,
            )

    @property
    def log(self) -> str:
        """The log up to now."""
        return self._log.read_text(errors="replace")

    def connect(self, timeout: float = 30.0) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

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
def serve(*options: str, ready: bool = True, module: str = "service", **environment: str) -> Iterator[ServedProcess]:
    """A service on a free port; it is ended at the end, if it has not ended itself.

    Args:
        options: options of the service, without `--port`.
        ready: whether to wait until it is ready.
        module: the module that is run.
        environment: changes to the environment.
    """
    with TemporaryDirectory(prefix="faults-") as folder:
        service = ServedProcess(options, Path(folder), environment, module)
        try:
            if ready:
                wait_until(service)
            yield service
        except (RuntimeError, TimeoutError) as error:
            error.add_note(service.log[-_SHOWN_CHARACTERS:])
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):  # with workers, it is the parent of others
                os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()
