"""ONNX Runtime on one NVIDIA GPU: buffers are kept on the device, and each bucket has a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from models.artifact.manifest import INPUT, Precision
from models.extras import missing
from models.runtime.onnxruntime import ort
from service.executors.base import ExecutorError, Source
from service.executors.gpu.streams import BUCKETS, CudaExecutor, opened

if TYPE_CHECKING:
    from models.runtime.cuda.device import CudaDevice

log = logging.getLogger(__name__)

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "float16": ("onnx", "float16"),
}
DEVICE = "gpu"

_PROVIDER = "CUDAExecutionProvider"
_FATAL = 4


class OnnxRuntimeCudaExecutor(CudaExecutor):
    """Computes a graph on the GPU whose number is `argument`, with a session per stream: a session captures on one
    stream.

    Raises:
        ExecutorError: the package, the GPU or a library is missing, or ONNX Runtime cannot load the file.
    """

    def __init__(self, source: Source) -> None:
        if _PROVIDER not in ort.get_available_providers():
            raise ExecutorError(missing("executor onnxruntime-cuda", "onnxruntime-gpu instead of onnxruntime", "gpu"))
        with opened("onnxruntime-cuda", source.argument, Exception) as device:
            super().__init__(device, BUCKETS)
            ort.preload_dlls()  # CUDA and cuDNN from Python packages
            try:
                self._load(source, graphs=True)
            except Exception as error:  # the exceptions of the runtime have no common base
                log.warning("%s runs without CUDA graphs: %s", source.path.name, error)
                self._load(source, graphs=False)

    def _load(self, source: Source, graphs: bool) -> None:
        image = source.manifest.preprocess.shape
        self._open_streams(image, lambda stream: _OnnxRuntimeProgram(source, self._cuda, stream, graphs))


class _OnnxRuntimeProgram:
    """A session on one stream, optionally with a CUDA graph per bucket."""

    capturable = False
    """The runtime captures itself: it knows when its memory has settled."""

    def __init__(self, source: Source, device: CudaDevice, stream: int, graphs: bool) -> None:
        self._index = device.index
        self._image = source.manifest.preprocess.shape
        # A session has separate graphs for each thread. Graphs that the loading thread captured would be captured
        # again in each worker thread, so one thread runs the session.
        self._thread = ThreadPoolExecutor(1, f"onnxruntime-{device.name}", initializer=device.use)
        self._graphs = graphs
        self._session = _make_session(source, device.index, stream, graphs)
        self.outputs: Mapping[str, tuple[int, ...]] = {
            output.name: tuple(output.shape[1:]) for output in self._session.get_outputs()
        }

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        binding = self._session.io_binding()
        binding.bind_input(INPUT, "cuda", self._index, np.uint8, (rows, *self._image), addresses[INPUT])
        for name, row in self.outputs.items():
            binding.bind_output(name, "cuda", self._index, np.float32, (rows, *row), addresses[name])
        options = ort.RunOptions()
        # The stream context waits once, for its copies too.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(rows))
        session, thread = self._session, self._thread
        return lambda: thread.submit(session.run_with_iobinding, binding, options).result()


def _make_session(source: Source, index: int, stream: int, graphs: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL  # errors are raised as exceptions
    provider = {
        "device_id": str(index),
        "user_compute_stream": str(stream),
        "enable_cuda_graph": str(int(graphs)),
        "use_tf32": "0",  # float32 means float32
        # Tensor cores need the channels last: 20 to 33 % more throughput. Without tensor cores it costs 20 %.
        "prefer_nhwc": str(int(source.precision == "float16")),
        # By default the arena doubles with each extension, and several models share a device.
        "arena_extend_strategy": "kSameAsRequested",
    }
    try:
        session = ort.InferenceSession(str(source.path), options, providers=[(_PROVIDER, provider)])
    except Exception as error:  # the exceptions of the runtime have no common base
        raise ExecutorError(f"{source.path.name}: ONNX Runtime cannot load it on cuda:{index}: {error}") from error
    session.disable_fallback()  # otherwise a failed run is silently repeated on the CPU
    if session.get_providers()[0] != _PROVIDER:
        raise ExecutorError(
            "ONNX Runtime cannot load its CUDA provider, so CUDA 13 or cuDNN 9 is missing: install them"
        )
    return session


EXECUTOR = OnnxRuntimeCudaExecutor
