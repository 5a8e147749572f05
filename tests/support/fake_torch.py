"""PyTorch with CUDA for the cuDNN baseline: its kernels compute on the CPU, its streams and graphs on `fake_cuda`.

Only what needs the device is replaced. As on a GPU, recorded work is not computed, a graph goes to the stream that
is current in the calling thread, and it computes when that stream is waited for.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cudnn_baseline import executor, operators
from tests.support.fake_cuda import FakeRuntime, Work, as_array

_TYPES = {"|u1": "uint8", "<f4": "float32"}


class FakeTorch:
    """Stands in for the module `torch`.

    Args:
        cuda: where its streams are.
    """

    def __init__(self, cuda: FakeRuntime) -> None:
        self.version = SimpleNamespace(cuda="13.0")
        self.fuses = True
        """Whether cuDNN has kernels for convolutions with what follows them."""
        self.fused: Counter[str] = Counter()
        """Calls of these, by what follows."""
        self.graphs: weakref.WeakSet[Any] = weakref.WeakSet()
        self.cuda = _cuda(cuda, self.graphs)
        self._runtime = cuda

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def cudnn_convolution_relu(self, x: Any, weight: Any, bias: Any, *geometry: Any) -> torch.Tensor:
        return self._convolve("relu", x, weight, bias, geometry).relu()

    def cudnn_convolution_add_relu(
        self, x: Any, weight: Any, z: Any, alpha: float, bias: Any, *geometry: Any
    ) -> torch.Tensor:
        added: torch.Tensor = self._convolve("add_relu", x, weight, bias, geometry) + alpha * z
        return added.relu()

    def _convolve(self, kind: str, x: Any, weight: Any, bias: Any, geometry: Any) -> torch.Tensor:
        if not self.fuses:
            raise RuntimeError("Unable to find an engine to execute this computation")
        assert x.dtype == weight.dtype == bias.dtype  # or the real one refuses
        self.fused[kind] += 1
        strides, padding, dilations, groups = geometry
        return torch.conv2d(x, weight, bias, strides, padding, dilations, groups)

    def device(self, device: str) -> torch.device:
        return torch.device("cpu" if device.startswith("cuda:") else device)

    def zeros(self, *size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        return torch.zeros(*size, dtype=dtype, device=self.device(device))

    def as_tensor(self, data: Any, device: str) -> torch.Tensor:
        interface = data.__cuda_array_interface__
        address, readonly = interface["data"]
        assert interface.keys() == {"data", "shape", "typestr", "version"}
        assert not readonly and device.startswith("cuda:")
        array = as_array(address, interface["shape"], _TYPES[interface["typestr"]])
        self._runtime.device_memory(address, array.nbytes)
        return torch.from_numpy(array)


def install(patch: pytest.MonkeyPatch, cuda: FakeRuntime) -> FakeTorch:
    """Have the cuDNN baseline compute with this PyTorch."""
    fake = FakeTorch(cuda)
    for module in (executor, operators):
        patch.setattr(module, "torch", fake)
    return fake


def _cuda(runtime: FakeRuntime, graphs: weakref.WeakSet[Any]) -> SimpleNamespace:
    """The module `torch.cuda`."""
    current = threading.local()

    class ExternalStream:
        def __init__(self, stream_ptr: int, device: str | None = None) -> None:
            self.pointer = stream_ptr

    class CUDAGraph:
        def __init__(self) -> None:
            self.kernels: list[Callable[[], object]] = []
            graphs.add(self)

        def replay(self) -> None:
            runtime.enqueue(current.stream.pointer, Work("compute", partial(_compute, self.kernels)))

    @contextmanager
    def stream(stream: ExternalStream) -> Iterator[None]:
        before = getattr(current, "stream", None)
        current.stream = stream
        try:
            yield
        finally:
            current.stream = before

    @contextmanager
    def graph(
        cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        assert pool is not None and capture_error_mode == "thread_local"
        with torch_cuda.stream(stream), _Recording(cuda_graph.kernels):
            yield

    torch_cuda = SimpleNamespace(
        ExternalStream=ExternalStream,
        CUDAGraph=CUDAGraph,
        stream=stream,
        graph=graph,
        graph_pool_handle=lambda: object(),
        synchronize=lambda device=None: None,
    )
    return torch_cuda


@torch.inference_mode()
def _compute(kernels: Sequence[Callable[[], object]]) -> None:
    for kernel in kernels:
        kernel()


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps each kernel, to be computed later into the same memory. Nothing is written yet but to new memory."""

    def __init__(self, kernels: list[Callable[[], object]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kernels = kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = partial(func, *args, **(kwargs or {}))
        if func._schema.is_mutable:
            self._kernels.append(call)
            return args[0]
        recorded = call()

        def compute() -> None:
            for target, value in zip(tree_leaves(recorded), tree_leaves(call()), strict=True):
                if target.data_ptr() != value.data_ptr():  # not a view of what was there
                    target.copy_(value)

        self._kernels.append(compute)
        return recorded
