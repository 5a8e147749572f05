"""Wraps the graph of another project in the signature of all graphs, without changing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from export.errors import ForeignWeights
from export.wrapping.batch import free_batch
from export.wrapping.head import Head, find_head
from export.wrapping.inputs import GraphInput, find_input
from export.wrapping.precision import subgraphs, to_float32
from export.wrapping.values import SMALLEST
from models.artifact.manifest import INPUT, OUTPUTS
from models.files import git_lfs_problem
from models.imaging.preprocess import Preprocess
from models.validation import first_line

_PREFIX = "wrapped/"
_QUANTISATION = {"QuantizeLinear", "DequantizeLinear"}
_MIN_OPSET = 7
"""Arithmetic of earlier opsets does not broadcast."""
_MIN_IR = 4
"""Weights of earlier files are inputs, too."""


@dataclass(frozen=True)
class Original:
    """A model of another project, its input and its head."""

    file: onnx.ModelProto
    """The model as it is in the file."""
    model: onnx.ModelProto
    """The model in float32."""
    input: GraphInput
    head: Head
    bgr: bool = False
    """Whether it takes the channels in the order blue, green, red."""


@dataclass(frozen=True)
class Wrapped:
    """The model with the signature of all graphs."""

    model: onnx.ModelProto
    outputs: tuple[str, ...]
    """Outputs that it has, in the order of `models.artifact.manifest.OUTPUTS`."""


def read(path: Path, logits: str | None = None) -> Original:
    """Read the graph of a classifier.

    Args:
        path: ONNX file.
        logits: name of the output with the logits or probabilities. Default: the only one.

    Raises:
        ForeignWeights: the file is no ONNX model, has other inputs than one image tensor, or no output for the logits.
    """
    model = _load(path)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise ForeignWeights(f"{path}: has opset {opset}, at least {_MIN_OPSET} is needed: convert it")
    given = find_input(path, model.graph)
    try:
        head = find_head(model.graph, logits)
    except ForeignWeights as error:
        raise ForeignWeights(f"{path}: {error}") from error
    return Original(model, to_float32(model), given, head)


def _load(path: Path) -> onnx.ModelProto:
    if problem := git_lfs_problem(path):
        raise ForeignWeights(problem)
    what = "is no ONNX model"
    try:
        model = onnx.load(path, load_external_data=False)
        what = "its weights are in a file beside it that cannot be read"
        onnx.load_external_data_for_model(model, str(path.parent))
        what = "is no valid ONNX model"
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's exceptions have no common base
        raise ForeignWeights(f"{path}: {what}: {first_line(error)}") from error
    return model


def with_output(original: onnx.ModelProto, name: str) -> bytes:
    """A model with a tensor as the only output."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    content: bytes = model.SerializeToString()
    return content


def wrap(original: Original, preprocess: Preprocess) -> Wrapped:
    """Wrap a model in the signature of all graphs."""
    given = original.input
    free = original.model if given.batch is None else free_batch(original.model, given.name, given.batch)
    model = compose.add_prefix(free, _PREFIX)
    model.ir_version = max(model.ir_version, _MIN_IR)
    graph = model.graph
    nodes = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *preprocess.shape]))
    graph.node.extend(_prologue(graph, original, preprocess))
    graph.node.extend(nodes)
    found = {name: getattr(original.head, name) for name in ("logits", "embedding", "feature_map")}
    graph.node.extend(_logits(graph, original.head))
    for name in ("embedding", "feature_map"):
        if found[name] is not None:
            graph.node.append(helper.make_node("Identity", [_PREFIX + found[name]], [name], name))
    # Added even if the model has probabilities, which may have any name.
    graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "probabilities", axis=1))
    outputs = tuple(name for name in OUTPUTS if found.get(name, "") is not None)
    for name in outputs:
        rank = 4 if name == "feature_map" else 2
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *[None] * (rank - 1)]))
    _prune(graph)
    for item in graph.value_info:  # recorded shapes may have a fixed batch size
        item.type.tensor_type.ClearField("shape")
    return Wrapped(model, outputs)


def check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Refuse graphs that one runtime alone computes right.

    Raises:
        ForeignWeights: the graph has operators outside the standard, or unsigned zero-points.
    """
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    functions = {f"{function.domain}.{function.name}" for function in model.functions}
    if own := [name for name in foreign if name not in functions]:
        raise ForeignWeights(
            f"{path}: has operators that only one runtime knows: {', '.join(own)}: export it without the optimisations "
            "of a runtime, and quantise it with --int8, or with QuantFormat.QDQ"
        )
    unsigned = {item.name for item in model.graph.initializer if item.data_type == TensorProto.UINT8}
    if any(node.op_type in _QUANTISATION and unsigned.intersection(node.input[2:]) for node in model.graph.node):
        raise ForeignWeights(
            f"{path}: is quantised with unsigned zero-points, which TensorRT reads as signed: import the network in "
            "float32 with --int8, or quantise it with activation_type=QuantType.QInt8"
        )


def _prune(graph: onnx.GraphProto) -> None:
    """Remove nodes and weights that no output needs, such as a softmax that is computed again."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            inner = (each for part in subgraphs([node]) for each in part.node)
            needed.update(name for each in (node, *inner) for name in each.input)
            needed.update(output.name for part in subgraphs([node]) for output in part.output)
    weights = [weight for weight in graph.initializer if weight.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def _logits(graph: onnx.GraphProto, head: Head) -> list[onnx.NodeProto]:
    """Nodes from the model's logits or probabilities to float32 [N, classes]."""
    rows = "head/rows" if head.is_probability else "logits"
    nodes = [helper.make_node("Flatten", [_PREFIX + head.logits], [rows], "head/rows", axis=1)]
    if head.is_probability:
        graph.initializer.append(numpy_helper.from_array(np.array(SMALLEST, np.float32), "head/smallest"))
        nodes.append(helper.make_node("Max", ["head/rows", "head/smallest"], ["head/positive"], "head/positive"))
        nodes.append(helper.make_node("Log", ["head/positive"], ["logits"], "head/logarithm"))
    return nodes


def _prologue(graph: onnx.GraphProto, original: Original, preprocess: Preprocess) -> list[onnx.NodeProto]:
    """Nodes from uint8 [N, H, W, C] to the model's input."""
    given = original.input
    mean, std = (np.array(values, np.float64) for values in (preprocess.mean, preprocess.std))
    shape = (-1, 1, 1) if given.channels_first else (-1,)
    graph.initializer.append(numpy_helper.from_array((mean * 255).astype(np.float32).reshape(shape), "mean"))
    graph.initializer.append(numpy_helper.from_array((1 / (std * 255)).astype(np.float32).reshape(shape), "scale"))
    # In this order for the reasons given in `ServingGraph`.
    steps: list[tuple[str, Sequence[str], dict[str, Any]]] = [("Cast", (), {"to": TensorProto.FLOAT})]
    if given.channels_first:
        steps.append(("Transpose", (), {"perm": [0, 3, 1, 2]}))
    steps += [("Sub", ("mean",), {}), ("Mul", ("scale",), {})]
    if original.bgr:
        graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "bgr"))
        steps.append(("Gather", ("bgr",), {"axis": 1 if given.channels_first else 3}))
    if given.is_integer and not given.casts:
        steps.append(("Cast", (), {"to": given.kind}))
    nodes, value = [], INPUT
    for index, (kind, constants, attributes) in enumerate(steps):
        output = _PREFIX + given.name if index == len(steps) - 1 else f"prologue_{index}"
        nodes.append(helper.make_node(kind, [value, *constants], [output], f"prologue/{kind}_{index}", **attributes))
        value = output
    return nodes
