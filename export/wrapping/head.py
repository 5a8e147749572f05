"""Finds the head of a classifier's graph: logits, pooled features, last feature map and last layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import ForeignWeights
from models.artifact.classifier_head import Classifier
from models.artifact.parity import Float32Array

_PRESERVING = {"Identity", "Dropout", "Cast", "Flatten", "Squeeze", "Unsqueeze", "Reshape"}
"""Nodes that change no value of a row, and not their order."""
_ROUNDING = _PRESERVING | {"Clip", "QuantizeLinear", "DequantizeLinear"}
"""Nodes after a softmax, which may also round or clip its values."""
_SIGMOIDS = {"Sigmoid", "HardSigmoid"}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UNDEFINED}


@dataclass(frozen=True)
class Head:
    """Names of tensors, and the last layer; None for parts that were not found."""

    output: str
    """The output of the graph."""
    logits: str
    """The input of the softmax before the output, or the output itself."""
    softmax: bool
    """Whether a softmax was found before the output."""
    last: str
    """Type of the node that computes the logits."""
    is_probability: bool = False
    """Whether `logits` names a tensor of probabilities, whose logarithms are the logits."""
    embedding: str | None = None
    feature_map: str | None = None
    classifier: Classifier | None = None


def find_head(graph: onnx.GraphProto, wanted: str | None = None) -> Head:
    """Find the head, backwards from the outputs.

    Args:
        graph: the graph.
        wanted: name of the output with the logits or probabilities. Default: the only one.

    Raises:
        ForeignWeights: the graph has several outputs that could be the logits, or outputs that are not probabilities of
            a single class.
    """
    makers = {name: node for node in graph.node for name in node.output}
    weights = constants(graph)
    output, logits, softmax = _logits(graph, makers, wanted)
    node = makers.get(_before(logits, makers, _PRESERVING))
    found = Head(output, logits, softmax, "" if node is None else node.op_type)
    bias: Float32Array | None = None
    if node is not None and node.op_type == "Add":  # the bias of a MatMul
        computed = [name for name in node.input if name not in weights]
        added = [name for name in node.input if name in weights]
        if len(computed) != 1 or len(added) != 1:
            return found
        bias = _array(weights[added[0]])
        node = makers.get(_before(computed[0], makers, _PRESERVING))
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return found
    embedding, feature_map = _pooled(node.input[0], makers, weights)
    if embedding is None:
        return found
    classifier = _classifier(node, weights, bias)
    return replace(found, embedding=embedding, feature_map=feature_map, classifier=classifier)


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initialisers and the values of Constant nodes, by name."""
    found = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in (attributes := _attributes(node)):
            found[node.output[0]] = attributes["value"]
    return found


def _logits(graph: onnx.GraphProto, makers: dict[str, onnx.NodeProto], wanted: str | None) -> tuple[str, str, bool]:
    """The output, the tensor with the logits, and whether a softmax is between them."""
    found = {}
    names = ", ".join(output.name for output in graph.output) or "none"
    outputs = [output for output in graph.output if wanted in (None, output.name)]
    if not outputs:
        raise ForeignWeights(f"has no output {wanted}; it has: {names}")
    for output in outputs:
        kind = output.type.tensor_type.elem_type
        if kind not in _FLOATS or not output.type.HasField("tensor_type"):
            raise ForeignWeights(
                f"its output {output.name} is no tensor of numbers with fractions, such as logits or probabilities: "
                "export the network without the choice of a class"
            )
        node = makers.get(_before(output.name, makers, _ROUNDING))
        if node is not None and node.op_type in _SIGMOIDS:
            raise ForeignWeights(
                f"its output {output.name} comes from a {node.op_type}, which gives each class a probability of its "
                "own: only networks with one class per image, which end in logits or a softmax, are supported"
            )
        softmax = node is not None and node.op_type in ("Softmax", "LogSoftmax")
        source = node.input[0] if node is not None and softmax else output.name
        found[_before(source, makers, _PRESERVING)] = (output.name, source, softmax)
    if len(found) != 1:
        raise ForeignWeights(
            f"the graph has several outputs ({names}): name the one with the logits or probabilities with --logits"
        )
    return next(iter(found.values()))


def _pooled(
    name: str, makers: dict[str, onnx.NodeProto], weights: dict[str, onnx.TensorProto]
) -> tuple[str | None, str | None]:
    """The embedding [N, features], and the feature map [N, features, h, w] whose mean it is."""
    embedding = name
    pool = makers.get(_before(embedding, makers, _PRESERVING))
    if pool is None:
        return None, None
    if pool.op_type == "GlobalAveragePool" or (pool.op_type == "ReduceMean" and _over_positions(pool, weights)):
        return embedding, pool.input[0]
    return None, None


def _over_positions(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a mean is over height and width. Since opset 18, the axes are an input."""
    axes = _attributes(node).get("axes")
    if len(node.input) > 1:
        tensor = weights.get(node.input[1])
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
    if weight.ndim != 2:
        return None
    if not attributes.get("transB", 0):
        weight = np.ascontiguousarray(weight.T)
    if node.op_type == "Gemm" and len(node.input) > 2:
        bias = _array(weights[node.input[2]]) if node.input[2] in weights else None
        if bias is None:
            return None
    bias = np.zeros(1, np.float32) if bias is None else bias.reshape(-1)
    return Classifier(weight, np.resize(bias, len(weight))) if len(bias) in (1, len(weight)) else None


def _before(name: str, makers: dict[str, onnx.NodeProto], passed: set[str]) -> str:
    """The tensor from which nodes of the `passed` types compute this one."""
    while name in makers and makers[name].op_type in passed and makers[name].input:
        name = makers[name].input[0]
    return name


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _array(tensor: onnx.TensorProto) -> Float32Array:
    values: Float32Array = numpy_helper.to_array(tensor).astype(np.float32)
    return values
