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
from dataclasses import dataclass, replace
from pathlib import Path

from models.artifact import manifest
from models.artifact.manifest import Artifact, ManifestError, Precision
from models.runtime import engine_cache, tensorrt_runtime
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import EngineCacheError
from models.runtime.engine_plan import Platform
from models.runtime.tensorrt_runtime import NoTensorRT
from service.messages.status import EngineStatus

log = logging.getLogger(__name__)

Command = Callable[[Path, Path, Precision], Sequence[str]]
"""Gives the command that builds the engine of a version: its folder, the cache, the precision."""


def build_command(version: Path, cache: Path, precision: Precision) -> list[str]:
    """As a user would build it; TensorRT is in a process of its own, so that it can take down nothing but that."""
    options = ["--cache", str(cache), "--precision", precision]
    return [sys.executable, "-m", "export", "engines", str(version), *options]


def is_tensorrt(executor: str) -> bool:
    """Whether an executor `NAME[:ARGUMENT]` runs these engines."""
    return executor.partition(":")[0] == "tensorrt"


@dataclass(frozen=True)
class _Known:
    """What was found of the engine of a version."""

    precision: Precision
    required: bool
    """Whether TensorRT is to serve; otherwise an engine that nobody built is not missed."""
    status: EngineStatus


class Plans:
    """What is known of the engines of the versions that were loaded.

    Args:
        cache: the engine cache.
        built: called with the folder of a version that TensorRT is to serve, when its engine has been built.
        machines: what engines can run on here; raises NoDevice or NoTensorRT.
        command: builds them.
    """

    def __init__(
        self,
        cache: Path,
        built: Callable[[Path], Awaitable[None]],
        machines: Callable[[], list[Platform]] = tensorrt_runtime.platforms,
        command: Command = build_command,
    ) -> None:
        self._cache = cache
        self._built = built
        self._machines = machines
        self._command = command
        self._known: dict[Path, _Known] = {}
        self._wanted: set[Path] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._closing = asyncio.Event()

    def status(self, version: Path) -> EngineStatus | None:
        """Of the engine of a version; None where none was built and none is asked for, or can be."""
        known = self._known.get(version)
        return None if known is None else known.status

    def look(self, version: Path, executor: str, precision: Precision) -> EngineStatus | None:
        """Compare the engine of a version with this machine. Reads files, in a thread.

        Args:
            version: its folder.
            executor: what is to serve it. For others than TensorRT and ONNX Runtime no engine is looked at.
            precision: what it is to compute in.

        Returns:
            What `status` gives from now on.
        """
        required = is_tensorrt(executor)
        status = self._look(version, precision, required) if required or executor.startswith("onnxruntime") else None
        self._known.pop(version, None)
        self._wanted.discard(version)
        if status is not None:
            self._known[version] = _Known(precision, required, status)
            if status.state == "BUILDING":
                self._wanted.add(version)
            if status.reason is not None:
                log.warning("%s version %s: TensorRT does not serve it: %s", *version.parts[-2:], status.reason)
        return status

    def refused(self, version: Path, error: Exception) -> None:
        """TensorRT did not load an engine that fits, or its answers were wrong."""
        log.error("%s version %s: TensorRT does not serve it: %s", *version.parts[-2:], error)
        self._known[version] = replace(self._known[version], status=EngineStatus(state="UNUSABLE", reason=str(error)))

    def _look(self, version: Path, precision: Precision, required: bool) -> EngineStatus | None:
        artifact = _artifact(version, precision)
        if artifact is None:
            return None
        plans = engine_cache.built(self._cache, artifact.sha256, precision)
        if not plans and not required:
            return None
        try:
            for here in self._machines():
                reason = self._unfit(artifact, here)
                if reason is None:
                    return EngineStatus(state="READY")
        except (NoDevice, NoTensorRT) as error:
            return EngineStatus(state="UNUSABLE", reason=_without_machine(plans, error))
        return EngineStatus(state="BUILDING", reason=reason)

    def _unfit(self, artifact: Artifact, here: Platform) -> str | None:
        try:
            engine_cache.find(self._cache, artifact.sha256, artifact.precision, here)
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
        known = self._known[version]
        async with self._turn:
            if self._closing.is_set():
                return
            log.info("%s version %s: building its TensorRT engine", *version.parts[-2:])
            said = await self._run(self._command(version, self._cache, known.precision))
        if self._closing.is_set():
            return
        status = await asyncio.to_thread(self._look, version, known.precision, known.required)
        if status is None or status.state != "READY":
            log.error("%s version %s: its TensorRT engine was not built: %s", *version.parts[-2:], said)
            self._known[version] = replace(known, status=EngineStatus(state="FAILED", reason=said))
            return
        log.info("%s version %s: its TensorRT engine is built", *version.parts[-2:])
        self._known[version] = replace(known, status=status)
        if known.required:
            await self._built(version)

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


def _artifact(version: Path, precision: Precision) -> Artifact | None:
    """What TensorRT computes a version from; None where it has no such file, or cannot be read."""
    try:
        artifacts = manifest.read(version).artifacts
    except ManifestError:  # who loads the version says so
        return None
    wanted = ("onnx", precision)
    return next((artifact for artifact in artifacts if (artifact.format, artifact.precision) == wanted), None)


def _without_machine(plans: Sequence[Path], error: Exception) -> str:
    if not plans:
        return str(error)
    try:
        plan = engine_cache.read(plans[0])
    except EngineCacheError as damaged:
        return f"{damaged}; {error}"
    return f"{plan.name}: built for {plan.built_for}, and here: {error}"
