"""Writes an int8 graph: the float graph with a QuantizeLinear/DequantizeLinear pair on each tensor that is rounded.

A runtime computes with integers between the pairs, with kernels of its choice. Runtimes need the pairs in different
places, so there are two schemes:

`ONNXRUNTIME` for ONNX Runtime on CPUs: unsigned activations with a zero-point, a pair on every input and output of
    convolutions and additions, and 32-bit integer biases. Otherwise its convolutions stay in float.
`PORTABLE` for TensorRT and OpenVINO: signed activations without a zero-point, a pair on the inputs of convolutions and
    on the shortcut's side of an addition, and none between a convolution and the addition behind it: the addition is
    then computed inside the convolution, on its 32-bit accumulator (TensorRT issue 1992).

Weights are signed, with one scale per output channel and no zero-point. The prologue and the head stay in float.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.quantization.calibrate import Range, Ranges
from models.artifact.manifest import OUTPUTS
from models.artifact.parity import Float32Array


@dataclass(frozen=True)
class Scheme:
    """Representation and places of quantised activations."""

    symmetric: bool
    """Whether activations are int8 without zero-point; otherwise uint8 with one."""
    rounds_results: bool
    """Whether outputs of convolutions and additions have pairs, too, and biases are integers."""


ONNXRUNTIME = Scheme(symmetric=False, rounds_results=True)
PORTABLE = Scheme(symmetric=True, rounds_results=False)


def layers(model: ModelProto) -> list[str]:
    """Names of the convolutions, in the graph's order."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def activations(model: ModelProto) -> list[str]:
    """Tensors whose range `quantize` needs, for all schemes."""
    wiring = _Wiring(model.graph)
    return sorted({name for scheme in (ONNXRUNTIME, PORTABLE) for name in wiring.rounded(scheme, frozenset()).values()})


def quantize(model: ModelProto, ranges: Ranges, scheme: Scheme, keep_float: Set[str] = frozenset()) -> ModelProto:
    """An int8 copy of a float32 model.

    Args:
        model: a model of `formats.onnx`.
        ranges: range of each of the `activations`.
        scheme: the scheme.
        keep_float: names of convolutions that stay in float.
    """
    quantized = ModelProto()
    quantized.CopyFrom(model)
    wiring = _Wiring(quantized.graph)
    rounded = wiring.rounded(scheme, keep_float)
    readers = {name: wiring.readers(name, scheme, keep_float) for name in rounded}
    rewrite = _Rewrite(quantized.graph)
    steps = {name: _step(ranges[source], scheme) for name, source in rounded.items()}
    for conv in wiring.of_type("Conv"):
        if conv.name not in keep_float:
            rewrite.round_constants(conv, steps[conv.input[0]][0] if scheme.rounds_results else None)
    for name, (scale, zero_point) in steps.items():
        rewrite.round_activation(name, wiring.producers[name], readers[name], scale, zero_point)
    rewrite.apply()
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def weight_scale(weight: Float32Array) -> Float32Array:
    """The scale of each output channel of a weight [out, ...], float32 [out]."""
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    return np.where(largest > 0, largest / 127, 1).astype(np.float32)


def _step(values: Range, scheme: Scheme) -> tuple[np.float32, np.uint8 | np.int8]:
    """Scale and zero-point of a tensor; zero is represented exactly."""
    if scheme.symmetric:
        return np.float32(max(-values.low, values.high) / 127 or 1), np.int8(0)
    scale = (values.high - values.low) / 255 or 1
    return np.float32(scale), np.uint8(round(-values.low / scale))


class _Wiring:
    """Producers and consumers of the tensors of a float graph."""

    def __init__(self, graph: GraphProto) -> None:
        self._nodes = list(graph.node)
        self._constants = {tensor.name for tensor in graph.initializer}
        self.producers = {name: node for node in self._nodes for name in node.output}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in self._nodes:
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)

    def of_type(self, kind: str) -> Iterator[NodeProto]:
        return (node for node in self._nodes if node.op_type == kind)

    def rounded(self, scheme: Scheme, keep_float: Set[str]) -> dict[str, str]:
        """The tensors to round, each with the tensor whose range it has."""
        names = []
        for conv in self.of_type("Conv"):
            if conv.name not in keep_float:
                names += [conv.input[0], self._result(conv)] if scheme.rounds_results else [conv.input[0]]
        for add in self.of_type("Add"):
            if not self._constants.intersection(add.input):
                names += [*add.input, self._result(add)] if scheme.rounds_results else [self._shortcut(add)]
        found = {}
        for name in names:
            producer = self.producers[name]
            if producer.op_type == "MaxPool":  # with the same scale before and after it, it runs on integers
                found[producer.input[0]] = found[name] = producer.input[0]
            elif name.rpartition("/")[2] not in OUTPUTS:  # feature maps are not rounded, for the head and as an output
                found[name] = name
        return found

    def readers(self, name: str, scheme: Scheme, keep_float: Set[str]) -> list[NodeProto]:
        """The nodes that read the rounded values of a tensor."""
        return [
            node
            for node in self._consumers[name]
            if node.name not in keep_float
            and (scheme.rounds_results or node.op_type != "Add" or self._shortcut(node) == name)
        ]

    def _result(self, node: NodeProto) -> str:
        """The output of a node, or of the ReLU after it, which runtimes compute together."""
        consumers = self._consumers.get(node.output[0], [])
        if len(consumers) == 1 and consumers[0].op_type == "Relu":
            return str(consumers[0].output[0])
        return str(node.output[0])

    def _shortcut(self, add: NodeProto) -> str:
        """The input of an addition from the shortcut, not from the block's last convolution."""
        first = self.producers.get(add.input[0])
        return str(add.input[1] if first is not None and first.op_type == "Conv" else add.input[0])


@dataclass
class _Rewrite:
    """New nodes and constants, which `apply` adds to the graph."""

    graph: GraphProto
    before: dict[str, list[NodeProto]] = field(default_factory=dict)
    """Nodes to insert before a node, by its name."""
    behind: dict[str, list[NodeProto]] = field(default_factory=dict)
    """Nodes to insert after a node, by its name."""
    constants: list[TensorProto] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    """Constants that are no longer used."""

    def __post_init__(self) -> None:
        self._values = {tensor.name: tensor for tensor in self.graph.initializer}

    def round_constants(self, conv: NodeProto, input_scale: np.float32 | None) -> None:
        """Round the weight of a convolution, and its bias if the scale of its input is given."""
        weight = numpy_helper.to_array(self._values[conv.input[1]])
        scale = weight_scale(weight)
        per_output = scale.reshape(-1, *[1] * (weight.ndim - 1))
        self._replace(conv, 1, np.clip(np.round(weight / per_output), -127, 127).astype(np.int8), scale)
        if input_scale is not None and len(conv.input) > 2:
            bias = numpy_helper.to_array(self._values[conv.input[2]]).astype(np.float64)
            limits = np.iinfo(np.int32)
            steps = np.clip(np.round(bias / (scale * input_scale)), limits.min, limits.max)
            self._replace(conv, 2, steps.astype(np.int32), scale * input_scale)

    def round_activation(
        self,
        name: str,
        producer: NodeProto,
        readers: list[NodeProto],
        scale: np.float32,
        zero_point: np.uint8 | np.int8,
    ) -> None:
        """Add a pair after the producer of a tensor, for its readers."""
        step = [f"{name}_scale", f"{name}_zero_point"]
        self.constants.append(numpy_helper.from_array(np.asarray(scale), step[0]))
        self.constants.append(numpy_helper.from_array(np.asarray(zero_point), step[1]))
        integers, floats = f"{name}_quantized", f"{name}_dequantized"
        self.behind.setdefault(producer.name, []).extend(
            [
                helper.make_node("QuantizeLinear", [name, *step], [integers], f"{name}_quantize"),
                helper.make_node("DequantizeLinear", [integers, *step], [floats], f"{name}_dequantize"),
            ]
        )
        for node in readers:
            for index, tensor in enumerate(node.input):
                if tensor == name:
                    node.input[index] = floats

    def apply(self) -> None:
        """Write the changes to the graph."""
        nodes = [
            new
            for node in self.graph.node
            for new in (*self.before.get(node.name, []), node, *self.behind.get(node.name, []))
        ]
        constants = [tensor for name, tensor in self._values.items() if name not in self.replaced]
        constants += self.constants
        for part in (self.graph.node, self.graph.initializer, self.graph.value_info):
            del part[:]  # value_info describes the former tensors
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(constants)

    def _replace(self, node: NodeProto, index: int, integers: NDArray[np.integer], scale: Float32Array) -> None:
        name = node.input[index]
        self.replaced.add(name)
        inputs, floats = [f"{name}_quantized", f"{name}_scale"], f"{name}_dequantized"
        self.constants.append(numpy_helper.from_array(integers, inputs[0]))
        self.constants.append(numpy_helper.from_array(scale, inputs[1]))
        self.before.setdefault(node.name, []).append(
            helper.make_node("DequantizeLinear", inputs, [floats], f"{name}_dequantize", axis=0)
        )
        node.input[index] = floats
