"""The baseline as an executor on a GPU, measured in the same way as the executors of the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks.cudnn_baseline.network import Network
from models.artifact import manifest
from models.artifact.manifest import INPUT
from service.executors.base import ExecutorError
from service.executors.gpu.streams import CudaExecutor, opened

BATCHES = (1, 64, 128, 256)


class CudnnExecutor(CudaExecutor):
    """Computes the float16 file of a version on the first GPU; all streams share the weights.

    Raises:
        ExecutorError: there is no GPU or no PyTorch for it, or the version has no float16 file.
    """

    def __init__(self, version: Path) -> None:
        described, path = manifest.read(version), _float16_file(version)
        with opened("cuDNN baseline", "0", RuntimeError) as device:
            if torch.version.cuda is None:
                raise ExecutorError("the cuDNN baseline needs a PyTorch that is built for CUDA")
            super().__init__(device, BATCHES)
            network = Network(path, described.outputs, torch.device(device.name))
            torch.cuda.synchronize(device.name)  # the other streams do not wait for the one that made the weights
            image = described.preprocess.shape
            self._open_streams(image, lambda stream: _CudnnProgram(network, image, device.name, stream))


class _CudnnProgram:
    """The network on one stream, with a CUDA graph per batch size."""

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


def _float16_file(version: Path) -> Path:
    for artifact in manifest.read(version).artifacts:
        if (artifact.format, artifact.precision) == ("onnx", "float16"):
            return version / artifact.file
    raise ExecutorError(f"{version}: no file in float16 for the cuDNN baseline: export it again with --float16")


def _at(address: int, shape: tuple[int, ...], dtype: str, device: str) -> Tensor:
    """Memory of the device as a tensor, without a copy."""
    interface = {"data": (address, False), "shape": shape, "typestr": dtype, "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=device)
