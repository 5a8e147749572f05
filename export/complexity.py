"""Multiply-adds of an ONNX graph, counted as in `models.architectures.complexity`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import shape_inference

Shapes = Mapping[str, Sequence[int]]

_WEIGHTS = {
    "Conv": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3, "QLinearMatMul": 3, "ConvInteger": 1, "MatMulInteger": 1,
}  # fmt: skip
"""The operators that are counted, with the place of the weights among the inputs."""


def count_multiply_adds(model: onnx.ModelProto) -> int | None:
    """Multiply-adds per image in the convolutions and matrix products of a graph whose first dimension is the batch.

    None without any, or if the shape of one of their tensors cannot be inferred.
    """
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (*single.graph.input, *single.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = shape_inference.infer_shapes(single, data_prop=True).graph
    shapes: dict[str, Sequence[int]] = {tensor.name: tensor.dims for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    counts = [_count(node, shapes) for node in graph.node if node.op_type in _WEIGHTS]
    return sum(counts) if counts and all(counts) else None


def _count(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Elements of the output times the terms of each; 0 if a shape is unknown."""
    names = (node.input[0], node.input[_WEIGHTS[node.op_type]], node.output[0])
    first, second, output = (shapes.get(name, ()) for name in names)
    if not first or not second or not output:
        return 0
    if "Conv" in node.op_type:
        terms = math.prod(second[1:])  # weight [out, in / groups, height, width]
    elif node.op_type == "Gemm" and any(item.name == "transA" and item.i for item in node.attribute):
        terms = first[0]
    else:
        terms = first[-1]
    return math.prod(output) * terms
