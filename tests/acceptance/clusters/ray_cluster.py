"""A Ray cluster on loopback, with Ray Serve, started and used as users do: `ray start`, `serve deploy`."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.acceptance.server import free_port
from tests.support.kubernetes import ROOT

CONFIG = ROOT / "deploy" / "ray" / "serve_config.yaml"
REQUEST_SECONDS = 15.0
"""Time limit of Ray for a request: less than that of the clients, so that a request without an answer shows."""
_START_SECONDS = 90.0
_FIRST_WORKER_PORT = 26000
"""Ray reserves these ports for its workers; the default range holds the ports of other clusters."""


class DeployFailed(Exception):
    """A config is not running; the message is that of Ray."""


class RayCluster:
    """Runs from `__enter__` to `__exit__`. Has a token of its own, so no other cluster of the machine answers.

    Args:
        cpus: CPUs of each node, as Ray counts them.
        haproxy: whether HAProxy takes the requests, in place of Ray's proxies in Python.
    """

    def __init__(self, cpus: int, haproxy: bool = False) -> None:
        self._cpus, self._haproxy = cpus, haproxy
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._nodes: list[subprocess.Popen[bytes]] = []
        """The head first."""
        self._token = secrets.token_hex(32)
        self._port, self._dashboard = free_port(), free_port()
        self.url = f"http://127.0.0.1:{free_port()}"
        """Where the proxy of Ray Serve answers."""

    def __enter__(self) -> RayCluster:
        head = ["--head", f"--port={self._port}", f"--dashboard-port={self._dashboard}", "--include-dashboard=true"]
        head += [f"--ray-client-server-port={free_port()}", f"--temp-dir={self._folder.name}"]
        self._start_node(*head)
        self._wait(self._answers, "the dashboard of Ray", _START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._nodes:
                self.end_node()
        finally:
            self._folder.cleanup()

    def add_node(self) -> None:
        """Start one more node, with as many CPUs."""
        before = self._count_nodes()
        self._start_node(f"--address=127.0.0.1:{self._port}")
        self._wait(lambda: self._count_nodes() > before, "another node", _START_SECONDS)

    def end_node(self) -> float:
        """End the node that was added last, as the end of its pod does. Returns the seconds that it took."""
        node, begun = self._nodes.pop(), time.monotonic()
        node.send_signal(signal.SIGTERM)  # `--block` then drains the node and ends its processes
        node.wait(60)
        return time.monotonic() - begun

    def _start_node(self, *options: str) -> None:
        first = _FIRST_WORKER_PORT + 400 * len(self._nodes)
        command = [_script("ray"), "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", *options]
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--min-worker-port={first}"]
        command += [f"--max-worker-port={first + 399}", f"--num-cpus={self._cpus}", "--object-store-memory=100000000"]
        with open(self._log, "ab") as log:
            self._nodes.append(subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log))

    def _count_nodes(self) -> int:
        answer = self._get("/nodes?view=summary")
        return sum(node["raylet"]["state"] == "ALIVE" for node in answer["data"]["summary"])

    def deploy(self, deployment: dict[str, Any], args: dict[str, Any]) -> None:
        """Deploy the config of `deploy/ray` with changed options and settings, and wait until its replicas are new."""
        config = yaml.safe_load(CONFIG.read_text())
        own = {"host": "127.0.0.1", "port": int(self.url.rpartition(":")[2]), "request_timeout_s": REQUEST_SECONDS}
        config["http_options"] |= own
        # On one machine the proxies of two nodes would share the port. That of a node that ends does not close its
        # connections, and requests on them fail: docs/clusters.md says so.
        config["proxy_location"] = "HeadOnly"
        (application,) = config["applications"]
        application["args"] = args
        application["deployments"][0].update(deployment)
        path = Path(self._folder.name) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        before = self.replicas()
        command = [_script("serve"), "deploy", str(path), "--address", self._address]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"serve deploy: {done.stderr[-2000:]}")
        self._wait(lambda: self._is_running() and not before.keys() & self.replicas().keys(), "new replicas", 120.0)

    def replicas(self) -> dict[str, int]:
        """The process of each replica that runs, by the id of the replica."""
        found = [each for each in self._deployment().get("replicas", []) if each["state"] == "RUNNING"]
        return {each["replica_id"]: each["pid"] for each in found}

    def used_nodes(self) -> int:
        """The number of nodes that have replicas."""
        return len({each["node_id"] for each in self._deployment().get("replicas", [])})

    def wait_for_replicas(self, condition: Callable[[dict[str, int]], bool], what: str, seconds: float) -> None:
        """Wait until the replicas are as a condition wants them."""
        self._wait(lambda: condition(self.replicas()), what, seconds)

    def _is_running(self) -> bool:
        application = self._application()
        if application.get("status") == "DEPLOY_FAILED":
            raise DeployFailed(self._deployment()["message"])
        states = [each["state"] for each in self._deployment().get("replicas", [])]
        return application.get("status") == "RUNNING" and states.count("RUNNING") == len(states) > 0

    def _application(self) -> dict[str, Any]:
        applications: dict[str, dict[str, Any]] = self._get("/api/serve/applications/")["applications"]
        return next(iter(applications.values()), {})

    def _get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        return httpx.get(self._address + path, headers=headers, timeout=30.0).raise_for_status().json()

    def _deployment(self) -> dict[str, Any]:
        return next(iter(self._application().get("deployments", {}).values()), {})

    def _answers(self) -> bool:
        try:
            self._application()
        except httpx.HTTPError:
            return False
        return True

    def _wait(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if self._nodes[0].poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {seconds:.0f} s: {self._log.read_text()[-2000:]}")
            time.sleep(0.25)

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}
        return {**os.environ, **token, "PYTHONPATH": path, **(self._haproxy_files() if self._haproxy else {})}

    def _haproxy_files(self) -> dict[str, str]:
        """Turn HAProxy on, with files of this cluster: the default folder is one for all of the machine."""
        folder = Path(self._folder.name) / "haproxy"
        folder.mkdir(exist_ok=True)
        files = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "SERVER_STATE_FILE": "state"}
        paths = {f"RAY_SERVE_HAPROXY_{name}": str(folder / file) for name, file in files.items()}
        return {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder), **paths}

    @property
    def _address(self) -> str:
        return f"http://127.0.0.1:{self._dashboard}"

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "start.log"


def _script(name: str) -> str:
    """A command of Ray in the environment that runs this."""
    return str(Path(sys.executable).parent / name)
