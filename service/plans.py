"""TensorRT engines of what is served: whether this machine can run them, why not, and building them anew.

    cache ──► fits ──► TensorRT serves
              └─ does not: ONNX Runtime serves, the reason is told, and where there is a GPU `python -m export engines`
                 builds another in a process of its own; when it is there, the version is loaded again

It is looked at when a version is loaded, for those whom ONNX Runtime serves as well: somebody built it to be used.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from models import engine_cache, machine, manifest
from models.driver import NoDevice
from models.engine_cache import EngineCacheError, Machine
from models.machine import NoTensorRT
from models.manifest import Artifact, ManifestError
from service.schemas import EngineStatus
from service.settings import Settings

log = logging.getLogger(__name__)

Command = Callable[[Path, Settings], Sequence[str]]
"""Gives the command that builds the engines of a version."""


def build_command(version: Path, settings: Settings) -> list[str]:
    """As a user would build them; TensorRT is in a process of its own, so that it can take down nothing but that."""
    options = ["--cache", str(settings.cache), "--precision", settings.precision]
    return [sys.executable, "-m", "export", "engines", str(version), *options]


class Plans:
    """What is known of the engines of the versions that were loaded.

    Args:
        settings: the engine cache, and which executor and precision are to serve.
        built: called with a version's folder when its engine has been built.
        machines: what engines can run on here; raises NoDevice or NoTensorRT.
        command: builds them.
    """

    def __init__(
        self,
        settings: Settings,
        built: Callable[[Path], Awaitable[None]],
        machines: Callable[[], list[Machine]] = machine.here,
        command: Command = build_command,
    ) -> None:
        self._settings = settings
        self._built = built
        self._machines = machines
        self._command = command
        executor = settings.executor.partition(":")[0]
        self.required = executor == "tensorrt"
        """Whether TensorRT is to serve; otherwise engines that nobody built are not missed."""
        self._concerned = self.required or executor.startswith("onnxruntime")
        self._statuses: dict[Path, EngineStatus] = {}
        self._wanted: set[Path] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._closing = asyncio.Event()

    def status(self, version: Path) -> EngineStatus | None:
        """Of the engine of a version; None where none is to be expected."""
        return self._statuses.get(version)

    def look(self, version: Path) -> bool:
        """Compare the engine of a version with this machine; whether it can be run. Reads files, in a thread."""
        status = self._look(version) if self._concerned else None
        self._wanted.discard(version)
        self._statuses.pop(version, None)
        if status is None:
            return False
        self._statuses[version] = status
        if status.state == "BUILDING":
            self._wanted.add(version)
        if status.reason is not None:
            log.warning("%s version %s: TensorRT does not serve it: %s", *version.parts[-2:], status.reason)
        return status.state == "READY"

    def refused(self, version: Path, error: Exception) -> None:
        """TensorRT did not load an engine that fits, or its answers were wrong."""
        log.error("%s version %s: TensorRT does not serve it: %s", *version.parts[-2:], error)
        self._statuses[version] = EngineStatus(state="UNUSABLE", reason=str(error))

    def _look(self, version: Path) -> EngineStatus | None:
        artifact = _artifact(version, self._settings)
        if artifact is None:
            return None
        there = engine_cache.built(self._settings.cache, artifact.sha256, artifact.precision)
        if not there and not self.required:
            return None
        try:
            for here in self._machines():
                reason = self._unfit(artifact, here)
                if reason is None:
                    return EngineStatus(state="READY")
        except (NoDevice, NoTensorRT) as error:
            return EngineStatus(state="UNUSABLE", reason=_without_machine(there, error))
        return EngineStatus(state="BUILDING", reason=reason)

    def _unfit(self, artifact: Artifact, here: Machine) -> str | None:
        try:
            engine_cache.find(self._settings.cache, artifact.sha256, artifact.precision, here)
        except EngineCacheError as error:
            return str(error)
        return None

    def start(self) -> None:
        """Begin to build what was found wanting, one after another. On the event loop."""
        while self._wanted and not self._closing.is_set():
            task = asyncio.create_task(self._build(self._wanted.pop()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _build(self, version: Path) -> None:
        async with self._turn:
            if self._closing.is_set():
                return
            log.info("%s version %s: building its TensorRT engine", *version.parts[-2:])
            reason = await self._run(self._command(version, self._settings))
        if self._closing.is_set():
            return
        status = await asyncio.to_thread(self._look, version)
        if status is not None and status.state == "READY":
            log.info("%s version %s: its TensorRT engine is built", *version.parts[-2:])
            self._statuses[version] = status
            await self._built(version)
        else:
            log.error("%s version %s: its TensorRT engine was not built: %s", *version.parts[-2:], reason)
            self._statuses[version] = EngineStatus(state="FAILED", reason=reason)

    async def _run(self, command: Sequence[str]) -> str:
        """Run a command to its end; the last line that it wrote."""
        try:
            self._process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
        except OSError as error:
            return f"{command[0]}: {error.strerror}"
        if self._closing.is_set():
            self._process.terminate()
        output, _ = await self._process.communicate()
        lines = output.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the builder ended with {self._process.returncode}"

    async def close(self) -> None:
        """End the process that builds, if there is one, and begin no other."""
        self._closing.set()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
        await asyncio.gather(*self._tasks)


def _artifact(version: Path, settings: Settings) -> Artifact | None:
    """What TensorRT computes a version from; None where it has no such file, or cannot be read."""
    try:
        artifacts = manifest.read(version).artifacts
    except ManifestError:  # who loads the version says so
        return None
    wanted = ("onnx", settings.precision)
    return next((artifact for artifact in artifacts if (artifact.format, artifact.precision) == wanted), None)


def _without_machine(there: Sequence[Path], error: Exception) -> str:
    if not there:
        return str(error)
    try:
        plan = engine_cache.read(there[0])
    except EngineCacheError as damaged:
        return f"{damaged}; {error}"
    return f"{plan.name}: built for {plan.built_for}, and here: {error}"
