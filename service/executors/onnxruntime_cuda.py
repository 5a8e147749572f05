"""ONNX Runtime on one NVIDIA GPU: buffers stay on the device, and each batch bucket is a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from models.artifact.manifest import INPUT, Precision
from service.executors.base import ExecutorError, Source
from service.executors.cuda.streams import BUCKETS, LaneExecutor, opened

if TYPE_CHECKING:
    from service.executors.cuda.device import Device

log = logging.getLogger(__name__)

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "float16": ("onnx", "float16"),
}
DEVICES: Mapping[str, str] = {"gpu": "0"}

_PROVIDER = "CUDAExecutionProvider"
_FATAL = 4


class Executor(LaneExecutor):
    """Runs a graph on the GPU whose number is `argument`, in a session a lane: a session records on one stream."""

    def __init__(self, source: Source) -> None:
        if _PROVIDER not in ort.get_available_providers():
            raise ExecutorError(
                "onnxruntime-cuda needs the package 'onnxruntime-gpu' instead of 'onnxruntime': install the extra gpu"
            )
        with opened("onnxruntime-cuda", source.argument, Exception) as device:
            super().__init__(device, BUCKETS)
            ort.preload_dlls()  # CUDA and cuDNN, where they come as Python packages
            try:
                self._load(source, graphs=True)
            except Exception as error:  # the runtime's exceptions have no common base
                log.warning("%s goes without CUDA graphs: %s", source.path.name, error)
                self._load(source, graphs=False)

    def _load(self, source: Source, graphs: bool) -> None:
        image = source.manifest.preprocess.shape
        self._add_lanes(image, lambda stream: _Program(source, self._cuda, stream, graphs))


class _Program:
    """A session on a lane's stream, if wanted with a graph a bucket."""

    records = False
    """The runtime does it itself: it knows when its memory has settled."""

    def __init__(self, source: Source, device: Device, stream: int, graphs: bool) -> None:
        self._index = device.index
        self._image = source.manifest.preprocess.shape
        # A session keeps the graphs of each thread apart: one that was recorded in the thread that loads would be
        # recorded again in each that serves.
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
        # The lane waits, once, for its copies too.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(rows))
        session, thread = self._session, self._thread
        return lambda: thread.submit(session.run_with_iobinding, binding, options).result()


def _make_session(source: Source, index: int, stream: int, graphs: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL  # errors come as exceptions
    provider = {
        "device_id": str(index),
        "user_compute_stream": str(stream),
        "enable_cuda_graph": str(int(graphs)),
        "use_tf32": "0",  # float32 is to mean float32
        # Tensor cores want the channels last: a fifth to a third more images. Without them it would cost a fifth.
        "prefer_nhwc": str(int(source.precision == "float16")),
        # The arena otherwise doubles with each extension, and several models share a device.
        "arena_extend_strategy": "kSameAsRequested",
    }
    try:
        session = ort.InferenceSession(str(source.path), options, providers=[(_PROVIDER, provider)])
    except Exception as error:  # the runtime's exceptions have no common base
        raise ExecutorError(f"{source.path.name}: ONNX Runtime cannot load it on cuda:{index}: {error}") from error
    session.disable_fallback()  # or a failed run is repeated on the processor, and nobody knows
    if session.get_providers()[0] != _PROVIDER:
        raise ExecutorError(
            "ONNX Runtime cannot load its CUDA provider, so CUDA 13 or cuDNN 9 is missing: install them"
        )
    return session
