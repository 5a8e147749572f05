"""A Ray cluster of three nodes on this machine, each in processes of its own, with two CPUs in all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tests.acceptance.server import free_port

CPUS = (0, 1, 1)
"""CPUs of each node. The head has none, as in clusters that keep work away from it."""
_OBJECT_BYTES = 400_000_000
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"}
"""Variables of the nodes, and of processes that connect to them: no token, as they listen on this machine."""
_MARK = "CLUSTERS_TEST"
"""Variable that all processes of the cluster have."""
_START_SECONDS = 180.0


class RayNodes:
    """The nodes; ended with the context."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.client_port = free_port()
        self._mark = uuid.uuid4().hex
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "nodes.log"

    def __enter__(self) -> RayNodes:
        head = ["--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false"]
        head += [f"--ray-client-server-port={self.client_port}", f"--temp-dir={self._folder.name}"]
        try:
            for number, cpus in enumerate(CPUS):
                place = [f"--address={self.address}"] if number else head
                self._nodes.append(self._start(*place, f"--num-cpus={cpus}"))
                self._wait(number + 1)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that joins the cluster with --on ray."""
        return {**ENVIRONMENT, "RAY_ADDRESS": self.address}

    def _end(self) -> None:
        for node in reversed(self._nodes):
            node.send_signal(signal.SIGTERM)
        for node in self._nodes:
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                node.kill()
        for pid in self._processes():
            os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()

    def engines(self) -> list[int]:
        """Process ids of the actors that compute."""
        return [pid for pid in self._processes() if b"Compute" in _read(pid, "cmdline")]

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *options, *ports]
        environment = {**os.environ, _MARK: self._mark, **ENVIRONMENT}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*command, f"--object-store-memory={_OBJECT_BYTES}"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def _wait(self, nodes: int) -> None:
        """Wait until so many nodes are alive."""
        ask = f"import ray; ray.init({self.address!r}, logging_level='ERROR', log_to_driver=False); "
        ask += f"raise SystemExit(sum(node['Alive'] for node in ray.nodes()) != {nodes})"
        end = time.monotonic() + _START_SECONDS
        environment = {**os.environ, **ENVIRONMENT}
        while subprocess.run([sys.executable, "-c", ask], capture_output=True, env=environment).returncode:
            if time.monotonic() > end or self._nodes[-1].poll() is not None:
                raise RuntimeError(f"node {nodes} of the Ray cluster did not start: {self._log.read_text()[-2000:]}")
            time.sleep(1.0)

    def _processes(self) -> list[int]:
        mark = f"{_MARK}={self._mark}".encode()
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if pid != os.getpid() and mark in _read(pid, "environ")]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""
