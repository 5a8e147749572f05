"""Turns a graph in half precision into one in float32, which all executors on CPUs compute faster and alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

_OTHERS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}


def to_float32(original: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with all weights and values in float32 instead of half or double precision.

    Weights keep their values; only the rounding of intermediate results differs.
    """
    model = onnx.ModelProto()
    model.CopyFrom(original)
    graphs = [model.graph, *subgraphs(model.graph.node)]
    nodes = [node for graph in graphs for node in graph.node]
    for function in model.functions:
        nodes.extend(function.node)
    for graph in graphs:
        for weight in graph.initializer:
            _convert(weight)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _OTHERS:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _OTHERS:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == AttributeProto.TENSOR:
                _convert(attribute.t)
    return model


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of nodes, such as the branches of an If."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
                yield from subgraphs(attribute.g.node)


def _convert(tensor: TensorProto) -> None:
    if tensor.data_type in _OTHERS:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
