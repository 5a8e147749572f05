"""A float16 ONNX file of this project, computed node by node by PyTorch; convolutions are kernels of cuDNN."""

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

from benchmarks.cudnn_baseline.operators import OPERATORS, ConvRelu, conv
from models.artifact.manifest import INPUT

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
    """A graph with its weights on a device. Called with images, uint8 [n, H, W, C], it returns the outputs by name.

    A convolution, the addition after it and the ReLU after that are one kernel where cuDNN has one.

    Args:
        path: the ONNX file.
        outputs: names of the outputs, float32.
        device: device to compute on.

    Raises:
        ValueError: the file has an operator that the baseline does not compute.
    """

    def __init__(self, path: Path, outputs: Collection[str], device: torch.device) -> None:
        graph = onnx.load(path).graph
        self._outputs = outputs
        self._weights = {tensor.name: _weight(tensor, device) for tensor in graph.initializer}
        self._steps = _fused([_step(node) for node in graph.node], outputs)
        last = {name: index for index, step in enumerate(self._steps) for name in step.inputs}
        kept = self._weights.keys() | set(outputs)
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
        return {name: values[name] for name in self._outputs}


def _step(node: onnx.NodeProto) -> _Step:
    if node.op_type not in OPERATORS:
        raise ValueError(f"the cuDNN baseline does not compute the operator {node.op_type}")
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


def _weight(tensor: onnx.TensorProto, device: torch.device) -> Tensor:
    weight = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    if not weight.is_floating_point():
        return weight  # axes, which the host reads: a wait for the device cannot be captured
    weight = weight.to(device)
    # Images are [n, H, W, C], and the fast kernels take that layout.
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight
