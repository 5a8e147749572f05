"""PyTorch, on the processor or on one NVIDIA GPU: the reference, and what runs where nothing else does.

A version holds no checkpoint. What the graph holds are the checkpoint's weights, folded, and a dozen operators, so the
graph is what is computed: node by node, eagerly, with PyTorch's kernels. Whatever can be exported can be computed.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as F

from models.artifact.manifest import INPUT, Precision
from models.imaging.preprocess import UInt8Array
from service.executors.base import Executor as AnyExecutor
from service.executors.base import ExecutorError, Float32Array, HostExecutor, Source
from service.executors.cuda.streams import BUCKETS, LaneExecutor, opened

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "float16": ("onnx", "float16"),
    "bfloat16": ("onnx", "float32"),
}
DEVICES: Mapping[str, str] = {"cpu": "cpu", "gpu": "0"}

_WITH_BIAS = 3
"""Inputs of a convolution that has a bias."""

_TYPES = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}


def Executor(source: Source) -> AnyExecutor:
    """`argument` is the number of a GPU, or cpu; without one the first GPU, if PyTorch can use any."""
    argument = source.argument
    if argument not in ("", "cpu") and not argument.isdecimal():
        raise ExecutorError(f"torch takes cpu or the number of a GPU, not {argument!r}")
    if not argument:
        argument = "0" if torch.cuda.is_available() else "cpu"
    return _OnCpu(source) if argument == "cpu" else _OnGpu(source)


class _OnCpu(HostExecutor):
    """Runs the graph on `threads` processors."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._threads = source.threads
        self._network = _Network(source, torch.device("cpu"))

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        if torch.get_num_threads() != self._threads:  # each thread that computes has a number of its own
            torch.set_num_threads(self._threads)
        computed = self._network(torch.from_numpy(images))
        return {name: computed[name].numpy() for name in outputs}

    def close(self) -> None:
        del self._network


class _OnGpu(LaneExecutor):
    """Runs the graph on the GPU whose number is `argument`, one copy of the weights for all lanes."""

    def __init__(self, source: Source) -> None:
        with opened("torch", source.argument, RuntimeError) as device:
            if torch.version.cuda is None:
                raise ExecutorError(f"torch:{device.index} needs a PyTorch that is built for CUDA: install one")
            super().__init__(device, BUCKETS)
            # float32 is to mean float32. For products of matrices that is PyTorch's default.
            torch.backends.cudnn.allow_tf32 = False
            network = _Network(source, torch.device(device.name), fuse=True)
            torch.cuda.synchronize(device.name)  # the lanes' streams do not wait for the one that made the weights
            image = source.manifest.preprocess.shape
            self._add_lanes(image, lambda stream: _Program(network, image, device.name, stream))

    def close(self) -> None:
        super().close()
        with contextlib.suppress(RuntimeError):  # of a lost device
            torch.cuda.empty_cache()  # PyTorch would keep it for itself


class _Program:
    """The network on a lane's stream, with a graph a bucket."""

    records = False
    """PyTorch does it itself: what its kernels allocate must stay where the graph has it."""

    def __init__(self, network: _Network, image: tuple[int, ...], device: str, stream: int) -> None:
        self._network = network
        self._image = image
        self._device = device
        self._stream = torch.cuda.ExternalStream(stream, device=device)  # type: ignore[no-untyped-call]
        # Graphs of a lane share memory: none begins before another has ended, and none reads what another wrote.
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
            compute()  # cuDNN chooses its kernels, which cannot be recorded
        graph = torch.cuda.CUDAGraph()
        # As in `Device.capture`: other threads may allocate meanwhile.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            compute()

        def enqueue() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return enqueue


def _at(address: int, shape: tuple[int, ...], dtype: str, device: str) -> Tensor:
    """Memory on the device as a tensor; nothing is copied."""
    interface = {"data": (address, False), "shape": shape, "typestr": dtype, "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=device)


@dataclass(frozen=True)
class _Step:
    """One kernel: what to compute of which values."""

    compute: Callable[..., Tensor]
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class _Network:
    """An exported graph, its weights on a device. Called with images, uint8 [n, H, W, C], it gives all outputs.

    Args:
        source: holds the graph.
        device: where it is computed.
        fuse: have cuDNN compute a convolution, the addition behind it and the ReLU behind that as one kernel.

    Raises:
        ExecutorError: the file cannot be read, or holds an operator that exported graphs do not have.
    """

    def __init__(self, source: Source, device: torch.device, fuse: bool = False) -> None:
        graph = _read(source.path)
        self._outputs = source.manifest.outputs
        narrow = torch.bfloat16 if source.precision == "bfloat16" else None
        convolved = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
        self._weights = {
            tensor.name: _weight(tensor, device, narrow if tensor.name in convolved else None)
            for tensor in graph.initializer
        }
        for node in graph.node:
            if node.op_type not in _OPERATORS:
                raise ExecutorError(f"{source.path.name}: torch does not compute the operator {node.op_type}")
        self._steps = [_step(node) for node in graph.node]
        if fuse:
            self._steps = _fused(self._steps, self._outputs)
        last = {name: index for index, step in enumerate(self._steps) for name in step.inputs}
        kept = self._weights.keys() | set(self._outputs)
        self._done = [
            [name for name in dict.fromkeys(step.inputs) if last[name] == index and name not in kept]
            for index, step in enumerate(self._steps)
        ]
        """Values that nobody needs after a step."""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        values = {**self._weights, INPUT: images}
        for step, done in zip(self._steps, self._done, strict=True):
            values[step.output] = step.compute(*(values[name] for name in step.inputs), **step.attributes)
            for name in done:
                del values[name]
        return {name: values[name].float().contiguous() for name in self._outputs}


def _step(node: onnx.NodeProto) -> _Step:
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return _Step(_OPERATORS[node.op_type], tuple(node.input), node.output[0], attributes)


def _fused(steps: Sequence[_Step], outputs: Collection[str]) -> list[_Step]:
    """The steps with each ReLU that follows a convolution, or the sum of one and something else, in its kernel.

    The sum is read and written once instead of three times, which is most of what a residual block otherwise waits for.
    """
    made = {step.output: index for index, step in enumerate(steps)}
    uses = Counter(name for step in steps for name in step.inputs) + Counter(outputs)

    def maker(name: str, compute: Callable[..., Tensor]) -> _Step | None:
        """The step that makes a value for a single reader, if this is what it computes."""
        step = steps[made[name]] if name in made else None
        return step if step is not None and step.compute is compute and uses[name] == 1 else None

    fused: list[_Step | None] = list(steps)
    for index, relu in enumerate(steps):
        if relu.compute is not torch.relu:
            continue
        add = maker(relu.inputs[0], torch.add)
        convs = [maker(name, _conv) for name in (add or relu).inputs]
        conv = next((conv for conv in convs if conv is not None and len(conv.inputs) == _WITH_BIAS), None)
        if conv is None:
            continue
        others = [name for name in add.inputs if name != conv.output] if add else []
        # In the place of the last of them: whatever else is added has been computed by then.
        fused[index] = _Step(_ConvRelu(), (*conv.inputs, *others), relu.output, conv.attributes)
        for step in (conv, add):
            if step is not None:
                fused[made[step.output]] = None
    return [step for step in fused if step is not None]


class _ConvRelu:
    """relu(conv(x) + bias + z), z being optional, in one kernel where cuDNN has one for it."""

    def __init__(self) -> None:
        self._fuses = True

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, z: Tensor | None = None, **attributes: Any) -> Tensor:
        if self._fuses:
            try:
                return self._fused(x, weight, bias, z, **attributes)
            except RuntimeError:  # where it is the device that fails, the other way fails too
                self._fuses = False
        y = _conv(x, weight, bias, **attributes)
        return torch.relu(y if z is None else y + z)

    @staticmethod
    def _fused(x: Tensor, weight: Tensor, bias: Tensor, z: Tensor | None, **attributes: Any) -> Tensor:
        x, padding = _pad(x.to(weight.dtype), attributes["pads"])
        geometry = attributes["strides"], padding, attributes["dilations"], attributes["group"]
        if z is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, weight, z.to(weight.dtype), 1.0, bias, *geometry)


def _read(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path).graph
    except Exception as error:  # protobuf's exceptions have no common base with OSError
        raise ExecutorError(f"{path.name}: cannot be read as ONNX: {error}") from error


def _weight(tensor: onnx.TensorProto, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    weight = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    if not weight.is_floating_point():
        return weight  # axes, which the host reads: waiting for the device could not be recorded
    weight = weight.to(device, dtype)
    # The image comes with its channels last, and so do the kernels that are fast.
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    x, padding = _pad(x, attributes["pads"])
    return F.conv2d(
        x.to(weight.dtype), weight, bias, attributes["strides"], padding, attributes["dilations"], attributes["group"]
    )


def _max_pool(x: Tensor, **attributes: Any) -> Tensor:
    x, padding = _pad(x, attributes["pads"], -torch.inf)
    return F.max_pool2d(
        x, attributes["kernel_shape"], attributes["strides"], padding, attributes.get("dilations", (1, 1))
    )


def _pad(x: Tensor, pads: tuple[int, int, int, int], value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """Padding that an operator takes: the same on both sides. Another is put around x."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _gemm(a: Tensor, b: Tensor, c: Tensor, **attributes: Any) -> Tensor:
    return F.linear(a.T if attributes.get("transA") else a, b if attributes.get("transB") else b.T, c)


def _mean(x: Tensor, axes: Tensor, keepdims: int = 1, **_: Any) -> Tensor:
    return x.float().mean(axes.tolist(), bool(keepdims))


def _normalise(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, **attributes: Any) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, shift, eps=attributes.get("epsilon", 1e-5))


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "BatchNormalization": _normalise,
    "Cast": lambda x, to: x.to(_TYPES[to]),
    "Conv": _conv,
    "Div": torch.div,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "ReduceMean": _mean,
    "Relu": torch.relu,
    "Softmax": lambda x, axis: x.softmax(axis),
    "Sub": torch.sub,
    "Transpose": lambda x, perm: x.permute(*perm),
}
"""What exported graphs are made of."""
