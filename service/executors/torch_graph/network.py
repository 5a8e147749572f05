"""An exported graph, computed node by node with PyTorch's kernels.

A version has no checkpoint. Its graph has the weights of the checkpoint, folded, and a dozen operators, so the graph is
interpreted: every version that can be exported can be computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from models.artifact.manifest import INPUT
from service.executors.base import ExecutorError, Source
from service.executors.torch_graph.operators import OPERATORS, ConvRelu, conv

_WITH_BIAS = 3
"""Number of inputs of a convolution with a bias."""


@dataclass(frozen=True)
class _Step:
    """One kernel: a function, the names of its inputs and output, and the attributes of its node."""

    compute: Callable[..., Tensor]
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class Network:
    """An exported graph with its weights on a device. Called with images, uint8 [n, H, W, C], it returns all outputs.

    Args:
        source: the version with the graph.
        device: device to compute on.
        fuse: compute a convolution, the addition after it and the ReLU after that as one cuDNN kernel.

    Raises:
        ExecutorError: the file cannot be read, or has an operator that exported graphs do not have.
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
            if node.op_type not in OPERATORS:
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
        """Values that no later step reads, per step."""

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
    return _Step(OPERATORS[node.op_type], tuple(node.input), node.output[0], attributes)


def _fused(steps: Sequence[_Step], outputs: Collection[str]) -> list[_Step]:
    """The steps with each ReLU that follows a convolution, or the sum of one and another value, in its kernel.

    The sum is then read and written once instead of three times, which is most of the other time of a residual block.
    """
    made = {step.output: index for index, step in enumerate(steps)}
    uses = Counter(name for step in steps for name in step.inputs) + Counter(outputs)

    def maker(name: str, compute: Callable[..., Tensor]) -> _Step | None:
        """The step that computes a value with this function for a single reader, if there is one."""
        step = steps[made[name]] if name in made else None
        return step if step is not None and step.compute is compute and uses[name] == 1 else None

    fused: list[_Step | None] = list(steps)
    for index, relu in enumerate(steps):
        if relu.compute is not torch.relu:
            continue
        add = maker(relu.inputs[0], torch.add)
        candidates = [maker(name, conv) for name in (add or relu).inputs]
        found = next((step for step in candidates if step is not None and len(step.inputs) == _WITH_BIAS), None)
        if found is None:
            continue
        others = [name for name in add.inputs if name != found.output] if add else []
        # The new step takes the place of the last one: the other summand has been computed by then.
        fused[index] = _Step(ConvRelu(), (*found.inputs, *others), relu.output, found.attributes)
        for step in (found, add):
            if step is not None:
                fused[made[step.output]] = None
    return [step for step in fused if step is not None]


def _read(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path).graph
    except Exception as error:  # the exceptions of protobuf have no common base with OSError
        raise ExecutorError(f"{path.name}: cannot be read as ONNX: {error}") from error


def _weight(tensor: onnx.TensorProto, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    weight = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    if not weight.is_floating_point():
        return weight  # axes, which the host reads: a wait for the device cannot be captured
    weight = weight.to(device, dtype)
    # Images are [n, H, W, C], and the fast kernels take that layout.
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight
