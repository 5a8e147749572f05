"""Finds the head of a classifier's graph: logits, pooled features, last feature map and last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.errors import ForeignWeights
from models.artifact.classifier_head import Classifier
from models.artifact.parity import Float32Array

_TRANSPARENT = {"Identity", "Dropout"}
_FLATTENING = {"Flatten", "Squeeze", "Reshape"}


@dataclass(frozen=True)
class Head:
    """Names of tensors, and the last layer; None for parts that were not found."""

    logits: str
    embedding: str | None = None
    feature_map: str | None = None
    classifier: Classifier | None = None


def find_head(graph: onnx.GraphProto) -> Head:
    """Find the head, backwards from the outputs.

    Raises:
        ForeignWeights: the graph has several outputs that could be the logits.
    """
    makers = {name: node for node in graph.node for name in node.output}
    logits = _logits(graph, makers)
    weights = {item.name: item for item in graph.initializer}
    last = _before(logits, makers, _TRANSPARENT)
    node = makers.get(last)
    bias: Float32Array | None = None
    if node is not None and node.op_type == "Add":  # the bias of a MatMul
        computed = [name for name in node.input if name not in weights]
        constants = [name for name in node.input if name in weights]
        if len(computed) != 1 or len(constants) != 1:
            return Head(logits)
        bias = _array(weights[constants[0]])
        node = makers.get(_before(computed[0], makers, _TRANSPARENT))
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return Head(logits)
    embedding, feature_map = _pooled(node.input[0], makers, weights)
    if embedding is None:
        return Head(logits)
    return Head(logits, embedding, feature_map, _classifier(node, weights, bias))


def _logits(graph: onnx.GraphProto, makers: dict[str, onnx.NodeProto]) -> str:
    """The output, or the input of the softmax before it."""
    found = []
    for output in graph.output:
        name = _before(output.name, makers, _TRANSPARENT)
        node = makers.get(name)
        found.append(node.input[0] if node is not None and node.op_type == "Softmax" else output.name)
    if len(set(found)) != 1:
        names = ", ".join(output.name for output in graph.output)
        raise ForeignWeights(f"the graph has several outputs ({names}): leave only the logits or the probabilities")
    return str(found[0])


def _pooled(
    name: str, makers: dict[str, onnx.NodeProto], weights: dict[str, onnx.TensorProto]
) -> tuple[str | None, str | None]:
    """The embedding [N, features], and the feature map [N, features, h, w] whose mean it is."""
    embedding = _before(name, makers, _TRANSPARENT)
    pool = makers.get(_before(embedding, makers, _TRANSPARENT | _FLATTENING))
    if pool is None:
        return None, None
    if pool.op_type == "GlobalAveragePool" or (pool.op_type == "ReduceMean" and _over_positions(pool, makers, weights)):
        return embedding, pool.input[0]
    return None, None


def _over_positions(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], weights: dict[str, onnx.TensorProto]
) -> bool:
    """Whether a mean is over height and width. Since opset 18, the axes are an input."""
    axes = _attributes(node).get("axes")
    if len(node.input) > 1:
        maker, name = makers.get(node.input[1]), node.input[1]
        tensor = weights.get(name) if maker is None else _attributes(maker).get("value")
        axes = None if tensor is None else numpy_helper.to_array(tensor).tolist()
    return axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]


def _classifier(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], bias: Float32Array | None
) -> Classifier | None:
    """The weights of the last layer, if the file has them unscaled."""
    attributes = _attributes(node)
    if node.input[1] not in weights or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        return None
    weight = _array(weights[node.input[1]])
    if not attributes.get("transB", 0):
        weight = np.ascontiguousarray(weight.T)
    if node.op_type == "Gemm" and len(node.input) > 2:
        bias = _array(weights[node.input[2]]) if node.input[2] in weights else None
        if bias is None:
            return None
    return Classifier(weight, np.zeros(len(weight), np.float32) if bias is None else bias.reshape(-1))


def _before(name: str, makers: dict[str, onnx.NodeProto], passed: set[str]) -> str:
    """The tensor from which nodes of the `passed` types compute this one."""
    while name in makers and makers[name].op_type in passed:
        name = makers[name].input[0]
    return name


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _array(tensor: onnx.TensorProto) -> Float32Array:
    values: Float32Array = numpy_helper.to_array(tensor)
    return values
