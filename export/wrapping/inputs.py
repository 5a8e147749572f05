"""Reads the form of a classifier's input: number and place of the channels, size, batch size and element type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.errors import ForeignWeights
from export.wrapping.head import constants

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_INTEGERS = (TensorProto.UINT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)
"""Types that hold the values of pixels, 0 to 255."""
_ARITHMETIC = {"Sub", "Add", "Mul", "Div"}
_PASSED = {"Identity", "Cast", "Pad", "BatchNormalization", "QuantizeLinear", "DequantizeLinear"} | _ARITHMETIC
"""Nodes before the first convolution that keep the place of the channels."""
_TO_CHANNELS_FIRST = [0, 3, 1, 2]


@dataclass(frozen=True)
class GraphInput:
    """The input of a model of another project."""

    name: str
    channels: int
    channels_first: bool
    size: tuple[int, int] | None
    """Height and width; None if it takes any size."""
    batch: int | None
    """Batch size of the file; None for any."""
    kind: int
    """Element type in the file."""
    normalises: bool
    """Whether the graph begins with arithmetic on the pixels, or takes whole numbers."""
    casts: bool
    """Whether all nodes that read the input change its type."""

    @property
    def is_integer(self) -> bool:
        return self.kind in _INTEGERS


def find_input(path: Path, graph: onnx.GraphProto) -> GraphInput:
    """The only input of a graph, if it takes images.

    Raises:
        ForeignWeights: the graph takes something else.
    """
    weights = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(item.name for item in inputs) or "none"
        raise ForeignWeights(f"{path}: takes {len(inputs)} inputs ({names}), not one")
    (given,) = inputs
    tensor = given.type.tensor_type
    shape = [item.dim_value for item in tensor.shape.dim]
    found = f"{given.name}: {TensorProto.DataType.Name(tensor.elem_type).lower()} {shape}"
    if tensor.elem_type not in (*_FLOATS, *_INTEGERS):
        raise ForeignWeights(f"{path}: takes {found}, not images as numbers")
    begin = _first_convolution(graph, given.name)
    shape = shape if tensor.HasField("shape") else [0] * 4
    places = [place for place in (1, 3) if len(shape) == 4 and shape[place] in (1, 3)]
    if len(places) == 1:
        channels_first, channels = places == [1], shape[places[0]]
    elif len(shape) == 4 and begin is not None and shape[1 if begin[0] else 3] in (0, begin[1]):
        channels_first, channels = begin  # dimensions without a value, or both places possible
    else:
        channels_first, channels = True, 0
    if channels not in (1, 3):
        raise ForeignWeights(f"{path}: takes {found}, not images of 1 or 3 channels")
    height, width = shape[2:] if channels_first else shape[1:3]
    readers = [node for node in graph.node if given.name in node.input]
    return GraphInput(
        name=given.name,
        channels=channels,
        channels_first=channels_first,
        size=(height, width) if height > 0 and width > 0 else None,
        batch=shape[0] if shape[0] > 0 else None,
        kind=tensor.elem_type,
        normalises=tensor.elem_type in _INTEGERS or _begins_with_arithmetic(graph, given.name),
        casts=all(node.op_type == "Cast" for node in readers),
    )


def _first_convolution(graph: onnx.GraphProto, name: str) -> tuple[bool, int] | None:
    """Whether the channels come first in the input, and their number, by the convolution that reads it."""
    weights = constants(graph)
    channels_first = True
    for node in graph.node:
        if name not in node.input:
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Conv" and node.input[1] in weights:
            return channels_first, weights[node.input[1]].dims[1] * attributes.get("group", 1)
        if node.op_type == "Transpose" and list(attributes.get("perm", [])) == _TO_CHANNELS_FIRST:
            channels_first = False
        elif node.op_type not in _PASSED:
            return None
        name = node.output[0]
    return None


def _begins_with_arithmetic(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a constant is added to the pixels, or multiplied with them, before the first layer."""
    weights = constants(graph)
    for node in graph.node:
        if name not in node.input:
            continue
        if node.op_type in _ARITHMETIC:
            return any(item in weights for item in node.input)
        if node.op_type not in ("Identity", "Cast", "Transpose"):
            return False
        name = node.output[0]
    return False
