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
from export.wrapping.head import Head, find_head
from models.artifact.manifest import INPUT, OUTPUTS
from models.imaging.preprocess import Preprocess

_PREFIX = "wrapped/"
_MIN_OPSET = 7
"""Arithmetic of earlier opsets does not broadcast."""


@dataclass(frozen=True)
class Original:
    """A model of another project, and its input."""

    model: onnx.ModelProto
    input: str
    channels: int
    channels_first: bool
    size: tuple[int, int] | None
    """Height and width; None if it takes any size."""
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
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's exceptions have no common base
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ForeignWeights(f"{path}: is no ONNX model: {first}") from error
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise ForeignWeights(f"{path}: has opset {opset}, at least {_MIN_OPSET} is needed: convert it")
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    if len(inputs) != 1:
        raise ForeignWeights(f"{path}: takes {len(inputs)} inputs ({', '.join(item.name for item in inputs)}), not one")
    return _original(path, model, inputs[0])


def _original(path: Path, model: onnx.ModelProto, given: onnx.ValueInfoProto) -> Original:
    tensor = given.type.tensor_type
    shape = [item.dim_value for item in tensor.shape.dim]
    found_input = f"{given.name}: {TensorProto.DataType.Name(tensor.elem_type).lower()} {shape}"
    if tensor.elem_type != TensorProto.FLOAT:
        raise ForeignWeights(f"{path}: takes {found_input}, not normalised images in float32")
    if len(shape) != 4 or not ({shape[1], shape[3]} & {1, 3}):
        raise ForeignWeights(f"{path}: takes {found_input}, not images of 1 or 3 channels")
    channels_first = shape[1] in (1, 3)
    height, width = shape[2:] if channels_first else shape[1:3]
    size = (height, width) if height and width else None
    channels = shape[1 if channels_first else 3]
    return Original(model, given.name, channels, channels_first, size, find_head(model.graph))


def with_logits(original: Original) -> bytes:
    """The original model with its logits as the only output."""
    model = onnx.ModelProto()
    model.CopyFrom(original.model)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=original.head.logits))
    content: bytes = model.SerializeToString()
    return content


def wrap(original: Original, preprocess: Preprocess) -> Wrapped:
    """Wrap a model in the signature of all graphs."""
    model = compose.add_prefix(original.model, _PREFIX)
    graph = model.graph
    nodes = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *preprocess.shape]))
    graph.node.extend(_prologue(graph, original, preprocess))
    graph.node.extend(nodes)
    found = {name: getattr(original.head, name) for name in ("logits", "embedding", "feature_map")}
    for name, source in found.items():
        if source is not None:
            graph.node.append(helper.make_node("Identity", [_PREFIX + source], [name], name))
    # Added even if the model has probabilities, which may have any name.
    graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "probabilities", axis=1))
    outputs = tuple(name for name in OUTPUTS if found.get(name, "") is not None)
    for name in outputs:
        rank = 4 if name == "feature_map" else 2
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *[None] * (rank - 1)]))
    for item in graph.value_info:  # recorded shapes may have a fixed batch size
        item.type.tensor_type.ClearField("shape")
    return Wrapped(model, outputs)


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
