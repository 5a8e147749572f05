"""PyTorch, on the CPU or on one NVIDIA GPU: the reference, and the executor that runs where no other does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import torch
from torch import Tensor

from models.artifact.manifest import INPUT, Precision
from models.imaging.preprocess import UInt8Array
from service.executors.base import Executor, ExecutorError, Float32Array, HostExecutor, Source
from service.executors.gpu.streams import BUCKETS, CudaExecutor, opened
from service.executors.torch_graph.network import Network

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "float16": ("onnx", "float16"),
    "bfloat16": ("onnx", "float32"),
}
DEVICES: Mapping[str, str] = {"cpu": "cpu", "gpu": "0"}


def default_argument() -> str:
    """The first GPU if PyTorch can use one, otherwise the CPU."""
    return DEVICES["gpu"] if torch.cuda.is_available() else DEVICES["cpu"]


def make_executor(source: Source) -> Executor:
    """An executor on the GPU whose number is the argument of the source, or on the CPU.

    Raises:
        ExecutorError: the argument is neither cpu nor a number, or the version cannot be loaded.
    """
    argument = source.argument or default_argument()
    if argument == "cpu":
        return TorchCpuExecutor(source)
    if not argument.isdecimal():
        raise ExecutorError(f"torch takes cpu or the number of a GPU, not {argument!r}")
    return TorchCudaExecutor(source)


class TorchCpuExecutor(HostExecutor):
    """Computes the graph with `threads` threads."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._threads = source.threads
        self._network = Network(source, torch.device("cpu"))

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        if torch.get_num_threads() != self._threads:  # the number belongs to the calling thread
            torch.set_num_threads(self._threads)
        computed = self._network(torch.from_numpy(gathered))
        return {name: computed[name].numpy() for name in outputs}

    def close(self) -> None:
        del self._network


class TorchCudaExecutor(CudaExecutor):
    """Computes the graph on the GPU whose number is `argument`; all streams share the weights."""

    def __init__(self, source: Source) -> None:
        with opened("torch", source.argument, RuntimeError) as device:
            if torch.version.cuda is None:
                raise ExecutorError(f"torch:{device.index} needs a PyTorch that is built for CUDA: install one")
            super().__init__(device, BUCKETS)
            # float32 means float32. For matrix products this is PyTorch's default.
            torch.backends.cudnn.allow_tf32 = False
            network = Network(source, torch.device(device.name), fuse=True)
            torch.cuda.synchronize(device.name)  # the other streams do not wait for the one that made the weights
            image = source.manifest.preprocess.shape
            self._open_streams(image, lambda stream: TorchProgram(network, image, device.name, stream))

    def close(self) -> None:
        super().close()
        with contextlib.suppress(RuntimeError):  # raised on a lost device
            torch.cuda.empty_cache()  # PyTorch would keep the memory for itself


class TorchProgram:
    """The network on one stream, with a CUDA graph per bucket."""

    capturable = False
    """PyTorch captures itself: memory that its kernels allocate must stay where the graph expects it."""

    def __init__(self, network: Network, image: tuple[int, ...], device: str, stream: int) -> None:
        self._network = network
        self._image = image
        self._device = device
        self._stream = torch.cuda.ExternalStream(stream, device=device)  # type: ignore[no-untyped-call]
        # The graphs of a stream share memory: they never overlap, and none reads values that another one wrote.
        self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self._stream):
            first = network(torch.zeros(1, *image, dtype=torch.uint8, device=device))
        self.outputs: Mapping[str, tuple[int, ...]] = {name: tuple(value.shape[1:]) for name, value in first.items()}

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        images = _at(addresses[INPUT], (rows, *self._image), "|u1", self._device)
        targets = {name: _at(addresses[name], (rows, *row), "<f4", self._device) for name, row in self.outputs.items()}

        def compute() -> None:
            for name, value in self._network(images).items():
                targets[name].copy_(value)

        with torch.cuda.stream(self._stream):
            compute()  # cuDNN selects its kernels, which cannot be captured
        graph = torch.cuda.CUDAGraph()
        # As in `Device.capture`: other threads may allocate meanwhile.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            compute()

        def enqueue() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return enqueue


def _at(address: int, shape: tuple[int, ...], dtype: str, device: str) -> Tensor:
    """Memory of the device as a tensor, without a copy."""
    interface = {"data": (address, False), "shape": shape, "typestr": dtype, "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=device)


EXECUTOR = make_executor
