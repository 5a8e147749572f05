"""The first load of a CUDA engine on a GPU happens in a process of its own.

    python -m service.registry.engines.trial VERSION CACHE EXECUTOR PRECISION

A kernel that reads a wrong address makes the GPU fail for all models of its process, and one that never ends cannot be
stopped. The trial loads the engine and computes the golden images. A success is recorded beside the engine: the same
engine is not tried again on the same kind of GPU with the same driver.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

from models.artifact import manifest
from models.artifact.manifest import Manifest, ManifestError, Precision
from models.files import atomic_write
from models.runtime import cuda_driver
from models.runtime.cuda_engine import cache as engine_files
from models.runtime.cuda_engine.plan import Precision as EnginePrecision
from service import executors
from service.executors.base import ExecutorError, Source
from service.registry.engines import cuda
from service.registry.execution_config import ExecutionConfig
from service.registry.repository import LoadError
from service.registry.verification import load_verified

log = logging.getLogger(__name__)

_SECONDS = 120.0
"""Time limit; a load takes a few seconds."""


def ensure_tried(cache: Path, version: Path, described: Manifest, config: ExecutionConfig) -> None:
    """Try the engine of a version, unless a record says that it has passed. Takes seconds.

    Args:
        cache: folder of the engine cache. If it cannot be written, the engine is tried at each load.
        version: folder of the version.
        described: manifest of the version.
        config: execution config of the version, whose executor is `cuda`.

    Raises:
        ExecutorError: the engine gives wrong outputs, crashes, or does not end.
        NoDevice: there is no GPU.
    """
    path, record = _record(cache, described, config)
    if path.is_file() and path.read_bytes() == record:
        return
    try:
        done = subprocess.run(
            _command(cache, version, config), capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ExecutorError(f"tried in a process of its own, the engine was not done after {_SECONDS:g} s") from None
    if done.returncode:
        raise ExecutorError(f"tried in a process of its own, the engine failed: {_reason(done)}")
    try:
        atomic_write(path, record)
    except OSError as error:
        log.debug("the engine is tried again at the next load: %s", error)


def _record(cache: Path, described: Manifest, config: ExecutionConfig) -> tuple[Path, bytes]:
    """The file of the record, and what it says after a success: driver, GPUs, and the engine of each kind."""
    artifact = executors.find(config.executor).select_artifact(described, config.precision)
    precision = cast(EnginePrecision, config.precision)
    lines, files = {f"driver {cuda_driver.version()}"}, []
    for device in cuda.devices(config.executor):
        file = engine_files.engine_file(cache, artifact.sha256, precision, device.compute_capability)
        lines.add(f"{device.name} {manifest.sha256(file)}")
        files.append(file)
    return files[0].with_suffix(".tried"), "".join(f"{line}\n" for line in sorted(lines)).encode()


def _command(cache: Path, version: Path, config: ExecutionConfig) -> list[str]:
    return [sys.executable, "-P", "-m", __name__, str(version), str(cache), config.executor, config.precision]


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if lines := done.stderr.strip().splitlines():
        return lines[-1]
    return signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"


def _try(version: Path, cache: Path, executor: str, precision: Precision) -> None:
    described = manifest.read_moved(version)
    runtime = executors.find(executor)
    artifact = runtime.select_artifact(described, precision)
    for loaded in load_verified(runtime, Source(version, described, artifact, precision, 1, cache=cache)).executors:
        loaded.close()


if __name__ == "__main__":
    try:
        _try(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])  # type: ignore[arg-type]
    except (ExecutorError, LoadError, ManifestError) as failure:
        sys.exit(str(failure))
