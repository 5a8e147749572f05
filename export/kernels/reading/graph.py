"""An ONNX graph with its constants and the readers of each tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from export.errors import UnsupportedNetwork
from export.kernels.network import Array, Float32Array, Shape


@dataclass(frozen=True)
class Weight:
    """A constant of a convolution: float32, or int8 with a scale per output channel."""

    values: Array
    scale: Float32Array | None


class Graph:
    """A graph, and functions that refuse what the kernels do not compute."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                value = next((item.t for item in node.attribute if item.name == "value"), None)
                if value is not None:
                    self.constants[node.output[0]] = numpy_helper.to_array(value)
        self.outputs = [output.name for output in graph.output]
        self.input = graph.input[0].name if graph.input else ""
        self.image = _image(graph)
        self.uses = Counter(name for node in self.nodes for name in node.input) + Counter(self.outputs)

    def constant(self, node: NodeProto, number: int) -> Array:
        """A constant input of a node."""
        found = self.constants.get(node.input[number]) if number < len(node.input) else None
        if found is None:
            raise refused(node, "its arguments are computed, not constant")
        return found

    def is_constant(self, name: str) -> bool:
        return name in self.constants


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def refused(node: NodeProto, reason: str) -> UnsupportedNetwork:
    """The error for a node that the kernels do not compute."""
    return UnsupportedNetwork(f"the kernels do not compute node {node.name or node.op_type}: {reason}")


def window(node: NodeProto, kernel: tuple[int, int]) -> tuple[int, int, int]:
    """Kernel, stride and padding of a node; each is the same in both directions."""
    found = attributes(node)
    strides, pads = found.get("strides", (1, 1)), found.get("pads", (0, 0, 0, 0))
    if found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise refused(node, "its padding depends on the size of the image")
    if set(found.get("dilations", (1, 1))) != {1}:
        raise refused(node, "it has a dilation")
    if len(set(kernel)) > 1 or len(set(strides)) > 1 or len(set(pads)) > 1:
        raise refused(node, "its window, stride or padding differs by direction")
    return int(kernel[0]), int(strides[0]), int(pads[0])


def scalar_scale(graph: Graph, node: NodeProto) -> float:
    """The scale of a QuantizeLinear or DequantizeLinear of activations, which has no zero-point."""
    scale = graph.constant(node, 1)
    zero = graph.constant(node, 2) if len(node.input) > 2 else np.int8(0)
    if np.asarray(scale).size != 1 or np.asarray(zero).dtype != np.int8 or np.any(zero):
        raise refused(node, "activations are rounded to signed integers with one scale and no zero-point")
    return float(np.float32(np.asarray(scale).reshape(())))


def _image(graph: onnx.GraphProto) -> Shape:
    computed = [value for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer}]
    if len(computed) != 1:
        raise UnsupportedNetwork(f"the graph has {len(computed)} inputs, not one with images")
    tensor = computed[0].type.tensor_type
    sizes = [dimension.dim_value for dimension in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.UINT8 or len(sizes) != 4 or not all(sizes[1:]):
        raise UnsupportedNetwork("the input of the graph is not uint8 [N, height, width, channels] of a fixed size")
    return Shape(*sizes[1:])
