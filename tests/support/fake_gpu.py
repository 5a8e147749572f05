"""A machine with GPUs, put together of the fakes: what the executors over lanes meet there."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.artifact import manifest
from models.runtime import engine_cache
from models.runtime.cuda import device as cuda
from models.runtime.cuda_driver import Device
from models.runtime.engine_plan import BatchRange, ComputeCapability, Plan, Platform
from models.runtime.onnxruntime import ort
from service.executors import onnxruntime_cuda
from tests.support.fake_cubins import CubinDriver
from tests.support.fake_cuda import FakeRuntime, Work, as_array
from tests.support.fake_tensorrt_runtime import FakeTensorRT
from tests.support.onnx_engine import functions, write_engine

NAME = "Fake GPU"
CAPABILITY = ComputeCapability(9, 0)
BATCHES = (BatchRange(min=1, opt=1, max=1), BatchRange(min=2, opt=8, max=8), BatchRange(min=9, opt=32, max=32))


@dataclass(frozen=True)
class FakeGpu:
    cuda: FakeRuntime
    tensorrt: FakeTensorRT
    onnxruntime: FakeOnnxRuntime
    driver: CubinDriver

    @property
    def machine(self) -> Platform:
        return Platform("tensorrt", self.tensorrt.__version__, CAPABILITY, NAME)

    def build_engines(self, version: Path, cache: Path, **changes: Any) -> None:
        """Put a plan for each ONNX file of a version into a cache; `changes` are of what describes them."""
        for artifact in manifest.read(version).artifacts:
            if artifact.format == "onnx":
                content = (version / artifact.file).read_bytes()
                described: dict[str, Any] = {
                    "onnx_sha256": artifact.sha256,
                    "precision": artifact.precision,
                    "flavour": "tensorrt",
                    "version": self.tensorrt.__version__,
                    "compute_capability": CAPABILITY,
                    "device": NAME,
                    "batches": BATCHES,
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
                engine_cache.write(cache, Plan(**{**described, **changes}), content)

    def build_cuda_engines(self, version: Path, cache: Path) -> None:
        """Put a CUDA engine in each precision into a cache, for which the version has a file."""
        write_engine(cache, version, "float16")
        write_engine(cache, version, "bfloat16")
        if any(
            (artifact.format, artifact.precision) == ("onnx", "int8") for artifact in manifest.read(version).artifacts
        ):
            write_engine(cache, version, "int8")


def install(patch: pytest.MonkeyPatch, devices: int = 1) -> FakeGpu:
    """Have this process find GPUs, a driver, TensorRT and ONNX Runtime for CUDA."""
    runtime = FakeRuntime(devices)
    trt = FakeTensorRT(runtime, tuple((batch.min, batch.max) for batch in BATCHES))
    driver = CubinDriver(runtime, functions())
    fake = FakeGpu(runtime, trt, FakeOnnxRuntime(runtime), driver)
    patch.setattr(cuda, "runtime", runtime)
    patch.setattr(cuda, "driver", driver)
    patch.setattr("models.runtime.cuda_driver.devices", lambda: [Device(NAME, CAPABILITY)] * devices)
    patch.setattr("models.runtime.cuda_driver.version", lambda: "13.0")
    patch.setattr("service.registry.engines.trial.ensure_tried", lambda *_: None)  # another process has no fake GPU
    patch.setattr("models.runtime.tensorrt_runtime.load", lambda flavour=None: trt)
    patch.setattr(onnxruntime_cuda, "ort", fake.onnxruntime)
    patch.setattr(ort, "get_available_providers", fake.onnxruntime.get_available_providers)
    return fake


@dataclass
class FakeOnnxRuntime:
    """The module `onnxruntime` as onnxruntime-gpu brings it, computing on the CPU."""

    cuda: FakeRuntime
    providers: tuple[str, ...] = ("CUDAExecutionProvider", "CPUExecutionProvider")
    loads_cuda: bool = True
    """Whether its provider finds cuDNN; otherwise the real one goes on without, and only logs."""
    capturable: bool = True
    """Whether all of a graph is on the GPU, which recording needs."""
    recording_fails: bool = False
    options: list[dict[str, str]] = field(default_factory=list)
    """Of the provider, of each session."""
    recorded: list[str] = field(default_factory=list)
    """Number of each graph. As the real one, a session keeps those of each thread apart."""
    SessionOptions = ort.SessionOptions
    RunOptions = ort.RunOptions

    def get_available_providers(self) -> list[str]:
        return list(self.providers)

    def preload_dlls(self) -> None:
        """Nothing is to be loaded."""

    def InferenceSession(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> _Session:
        ((name, chosen),) = providers
        assert name == "CUDAExecutionProvider"
        if chosen["enable_cuda_graph"] == "1" and not self.capturable:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        self.options.append(chosen)
        return _Session(self, path, options, int(chosen["user_compute_stream"]), chosen["enable_cuda_graph"] == "1")


class _Session:
    def __init__(self, fake: FakeOnnxRuntime, path: str, options: Any, stream: int, records: bool) -> None:
        self._fake = fake
        self._stream = stream
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._graphs: set[tuple[int, str]] = set()
        self._records = records

    def get_providers(self) -> list[str]:
        return list(self._fake.providers if self._fake.loads_cuda else self._fake.providers[1:])

    def disable_fallback(self) -> None:
        """There is nothing to go back to."""

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def io_binding(self) -> _Binding:
        return _Binding()

    def run_with_iobinding(self, iobinding: _Binding, run_options: Any) -> None:
        if self._records:
            number = run_options.get_run_config_entry("gpu_graph_id")
            if (threading.get_ident(), number) not in self._graphs:
                if self._fake.recording_fails:
                    raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
                self._graphs.add((threading.get_ident(), number))
                self._fake.recorded.append(number)

        def compute() -> None:
            names = list(iobinding.outputs)
            feed = {name: as_array(*where) for name, where in iobinding.inputs.items()}
            for name, value in zip(names, self._session.run(names, feed), strict=True):
                as_array(*iobinding.outputs[name])[...] = value

        self._fake.cuda.enqueue(self._stream, Work("compute", compute))


class _Binding(SimpleNamespace):
    """Where tensors lie: address, shape, dtype."""

    def __init__(self) -> None:
        super().__init__(inputs={}, outputs={})

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: tuple[int, ...], buffer_ptr: int
    ) -> None:
        assert (device_type, np.dtype(element_type)) == ("cuda", np.uint8)
        self.inputs[name] = buffer_ptr, shape, element_type

    def bind_output(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: tuple[int, ...], buffer_ptr: int
    ) -> None:
        assert (device_type, np.dtype(element_type)) == ("cuda", np.float32)
        self.outputs[name] = buffer_ptr, shape, element_type
