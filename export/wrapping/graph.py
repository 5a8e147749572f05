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
from export.wrapping.precision import subgraphs, to_float32
from export.wrapping.values import SMALLEST
from models.artifact.manifest import INPUT, OUTPUTS
from models.files import git_lfs_problem
from models.imaging.preprocess import Preprocess

_PREFIX = "wrapped/"
_MIN_OPSET = 7
"""Arithmetic of earlier opsets does not broadcast."""


@dataclass(frozen=True)
class Original:
    """A model of another project, and its input."""

    file: onnx.ModelProto
    """The model as it is in the file."""
    model: onnx.ModelProto
    """The model in float32."""
    input: str
    channels: int
    channels_first: bool
    size: tuple[int, int] | None
    """Height and width; None if it takes any size."""
    batch: int | None
    """Batch size of the file; None for any."""
    kind: int
    """Element type of the input in the file."""
    head: Head


@dataclass(frozen=True)
class Wrapped:
    """The model with the signature of all graphs."""

    model: onnx.ModelProto
    outputs: tuple[str, ...]
    """Outputs that it has, in the order of `models.artifact.manifest.OUTPUTS`."""


def read(path: Path) -> Original:
    """Read the graph of a classifier.

    Raises:
        ForeignWeights: the file is no ONNX model, has other inputs than one image tensor, or no output for the logits.
    """
    model = _load(path)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise ForeignWeights(f"{path}: has opset {opset}, at least {_MIN_OPSET} is needed: convert it")
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    if len(inputs) != 1:
        raise ForeignWeights(f"{path}: takes {len(inputs)} inputs ({', '.join(item.name for item in inputs)}), not one")
    return _original(path, model, inputs[0])


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


def first_line(error: Exception) -> str:
    """The first line of an error of a library."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _original(path: Path, model: onnx.ModelProto, given: onnx.ValueInfoProto) -> Original:
    tensor = given.type.tensor_type
    shape = [item.dim_value for item in tensor.shape.dim]
    found_input = f"{given.name}: {TensorProto.DataType.Name(tensor.elem_type).lower()} {shape}"
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
        raise ForeignWeights(f"{path}: takes {found_input}, not normalised images in float32")
    if len(shape) != 4 or not ({shape[1], shape[3]} & {1, 3}):
        raise ForeignWeights(f"{path}: takes {found_input}, not images of 1 or 3 channels")
    channels_first = shape[1] in (1, 3)
    height, width = shape[2:] if channels_first else shape[1:3]
    size = (height, width) if height > 0 and width > 0 else None
    batch = shape[0] if shape[0] > 0 else None
    try:
        head = find_head(model.graph)
    except ForeignWeights as error:
        raise ForeignWeights(f"{path}: {error}") from error
    channels = shape[1 if channels_first else 3]
    return Original(model, to_float32(model), given.name, channels, channels_first, size, batch, tensor.elem_type, head)


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
    free = original.model if original.batch is None else free_batch(original.model, original.input, original.batch)
    model = compose.add_prefix(free, _PREFIX)
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
    mean, std = (np.array(values, np.float64) for values in (preprocess.mean, preprocess.std))
    graph.initializer.append(numpy_helper.from_array((mean * 255).astype(np.float32), "mean"))
    graph.initializer.append(numpy_helper.from_array((1 / (std * 255)).astype(np.float32), "scale"))
    # Cast, arithmetic and transpose in this order, because TensorRT cannot transpose uint8.
    steps: list[tuple[str, Sequence[str], dict[str, Any]]] = [
        ("Cast", (), {"to": TensorProto.FLOAT}),
        ("Sub", ("mean",), {}),
        ("Mul", ("scale",), {}),
        ("Transpose", (), {"perm": [0, 3, 1, 2]}) if original.channels_first else ("Identity", (), {}),
    ]
    nodes, value = [], INPUT
    for index, (kind, constants, attributes) in enumerate(steps):
        output = _PREFIX + original.input if index == len(steps) - 1 else f"prologue_{index}"
        nodes.append(helper.make_node(kind, [value, *constants], [output], f"prologue/{kind}_{index}", **attributes))
        value = output
    return nodes
