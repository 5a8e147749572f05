"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.artifact.manifest import INPUT, Precision
from models.imaging.preprocess import UInt8Array
from models.runtime.onnxruntime import ort
from service.executors.base import ExecutorError, Float32Array, HostExecutor, Source

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "int8": ("onnx-onnxruntime", "int8"),
}
DEVICE = "cpu"

_FATAL = 4


class OnnxRuntimeCpuExecutor(HostExecutor):
    """Computes a graph with `threads` threads.

    Raises:
        ExecutorError: the source has an argument, or ONNX Runtime cannot load the file.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        if source.argument:
            raise ExecutorError(f"onnxruntime-cpu takes no argument, not {source.argument!r}")
        self._session = open_session(source.path, source.threads, source.spin)

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        names = list(outputs)
        return dict(zip(names, self._session.run(names, {INPUT: gathered}), strict=True))

    def close(self) -> None:
        del self._session


def open_session(path: Path, threads: int, spin: bool = False) -> Any:
    """A session that computes a graph on the CPU.

    Args:
        path: the file.
        threads: threads that compute a batch.
        spin: whether they may spin while they wait for work within a run.

    Raises:
        ExecutorError: ONNX Runtime cannot load the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL  # errors are raised as exceptions
    # Threads that spin while they wait for work take CPU time from decoding and HTTP. If neither is active,
    # sleeping within a run makes a small network half as slow again. Between runs threads sleep in any case.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of the runtime have no common base
        raise ExecutorError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error


EXECUTOR = OnnxRuntimeCpuExecutor
