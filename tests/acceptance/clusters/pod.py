"""A pod of the Deployment, run by podman: its security context, environment, probes, limits and lifecycle."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import httpx

from tests.acceptance.server import free_port
from tests.support.kubernetes import Manifest

PREFIX = "resnet-serve-pod"
_GIGABYTE = {"Gi": "g", "Mi": "m"}


class Pod:
    """One container of a Deployment. Does the work of the kubelet: probes, preStop, and the end.

    Args:
        manifests: the rendered overlay.
        number: makes its name.
    """

    def __init__(self, manifests: list[Manifest], number: int) -> None:
        deployment = next(each for each in manifests if each["kind"] == "Deployment")
        self._pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
        (self._container,) = self._pod["containers"]
        settings = next(each for each in manifests if each["kind"] == "ConfigMap")["data"]
        self.name = f"{PREFIX}-{number}"
        self.port = free_port()
        self.liveness_failures = 0
        self._ended = Event()
        self._folder = TemporaryDirectory(prefix=f"{PREFIX}-", ignore_cleanup_errors=True)
        run = ["podman", "run", "--detach", "--name", self.name, "--publish", f"127.0.0.1:{self.port}:8000"]
        environment = [item for name, value in settings.items() for item in ("--env", f"{name}={value}")]
        _run(*run, *environment, *self._limits(), self._container["image"])
        self._wait_for_start()
        self._liveness = Thread(target=self._watch_liveness, daemon=True)
        self._liveness.start()

    def _limits(self) -> list[str]:
        """Options of podman for the security context, the resources and the volumes."""
        user, own = self._pod["securityContext"], self._container["securityContext"]
        options = ["--user", f"{user['runAsUser']}:{user['runAsGroup']}"]
        options += ["--read-only"] if own["readOnlyRootFilesystem"] else []
        options += [item for capability in own["capabilities"]["drop"] for item in ("--cap-drop", capability)]
        options += [] if own["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
        limits = self._container["resources"]["limits"]
        options += ["--cpus", limits["cpu"], "--memory", _size(limits["memory"])]
        for mount in self._container["volumeMounts"]:
            # An emptyDir belongs to root and to the group fsGroup, and all users may write to it.
            folder = Path(self._folder.name) / mount["name"]
            folder.mkdir()
            os.chown(folder, 0, user["fsGroup"])
            folder.chmod(0o2777)
            options += ["--volume", f"{folder}:{mount['mountPath']}"]
        return options

    def ready(self) -> bool:
        """One readiness probe."""
        return self._probe(self._container["readinessProbe"])

    def wait_until_ready(self, seconds: float = 120.0) -> None:
        """Probe at the period of the manifest until the pod is ready."""
        end = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name} is not ready: {self.log()[-2000:]}")
            time.sleep(self._container["readinessProbe"]["periodSeconds"])

    def end(self) -> float:
        """preStop, SIGTERM, and SIGKILL after the grace period. Returns the seconds of the end.

        Raises:
            RuntimeError: it had to be killed.
        """
        self._ended.set()
        started, wait = time.monotonic(), self._container["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(wait)
        grace = self._pod["terminationGracePeriodSeconds"] - wait
        _run("podman", "stop", "--time", str(grace), self.name)
        code = _run("podman", "inspect", "--format", "{{.State.ExitCode}}", self.name)
        if code != "0":
            raise RuntimeError(f"{self.name} ended with {code}: {self.log()[-2000:]}")
        return time.monotonic() - started

    def log(self) -> str:
        return _run("podman", "logs", self.name)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return subprocess.run(["podman", "exec", self.name, *command], capture_output=True, text=True)

    def _wait_for_start(self) -> None:
        probe = self._container["startupProbe"]
        for _ in range(probe["failureThreshold"]):
            if self._probe(probe):
                return
            time.sleep(probe["periodSeconds"])
        raise TimeoutError(f"{self.name} did not start: {self.log()[-2000:]}")

    def _watch_liveness(self) -> None:
        probe = self._container["livenessProbe"]
        while not self._ended.wait(probe["periodSeconds"]):
            self.liveness_failures += not self._probe(probe)

    def _probe(self, probe: dict[str, Any]) -> bool:
        try:
            url = f"http://127.0.0.1:{self.port}{probe['httpGet']['path']}"
            return httpx.get(url, timeout=probe.get("timeoutSeconds", 1)).is_success
        except httpx.TransportError:
            return False


def remove_all() -> None:
    """Remove the containers of earlier runs."""
    names = _run("podman", "ps", "--all", "--format", "{{.Names}}").split()
    for name in names:
        if name.startswith(PREFIX):
            _run("podman", "rm", "--force", name)


def _size(text: str) -> str:
    """A size of Kubernetes as podman writes it, such as 4g for 4Gi."""
    return text[:-2] + _GIGABYTE[text[-2:]]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")
    return (done.stdout + (done.stderr if command[1] == "logs" else "")).strip()
