"""Brings the graph of a residual network into the form of `formats.onnx`, for half precision and int8.

ONNX Runtime does the work: its basic optimisations fold batch normalisation into convolutions, and remove what computes
nothing. They use standard operators only.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from export.errors import ForeignWeights
from export.fusion import residual_adds
from models.artifact.manifest import OUTPUTS
from models.runtime.onnxruntime import ort

_PROLOGUE = {"Cast", "Sub", "Mul", "Add", "Div", "Gather", "Transpose", "Pad", "Identity"}
_BODY = {"Conv", "Relu", "Add", "MaxPool", "AveragePool", "BatchNormalization", "Mul", "Pad", "Identity"}
_MIN_OPSET, _OPSET = 13, 17
"""Scales of each channel need the first; earlier graphs are converted to the second."""
_FEATURE_MAP = "feature_map"


def residual_graph(path: Path, wrapped: ModelProto) -> ModelProto:
    """A copy of a wrapped graph in the form that `quantization` and `to_float16` take.

    Args:
        path: file of the classifier, for messages.
        wrapped: graph with the signature of all graphs.

    Raises:
        ForeignWeights: the graph is no residual network of convolutions.
    """
    if _FEATURE_MAP not in {output.name for output in wrapped.graph.output}:
        raise ForeignWeights(f"{path}: {_refusal('has no average over the last feature map')}")
    model = _optimised(wrapped)
    _name_nodes(model)
    _name_outputs(model.graph)
    prologue, body = _parts(model.graph)
    foreign = {node.op_type for node in body} - _BODY | {node.op_type for node in prologue} - _PROLOGUE
    if foreign:
        raise ForeignWeights(f"{path}: {_refusal('has ' + ', '.join(sorted(foreign)))}")
    weights = {item.name for item in model.graph.initializer}
    if not residual_adds(model.graph) or any(node.op_type == "Conv" and node.input[1] not in weights for node in body):
        raise ForeignWeights(f"{path}: {_refusal('has no additions of shortcuts, or computes its weights')}")
    return model


def to_float16(residual: ModelProto) -> ModelProto:
    """A copy of a graph of `residual_graph` that computes in half precision from the first convolution to the feature
    map, as the graphs of `resnet-export build` do.
    """
    model = ModelProto()
    model.CopyFrom(residual)
    graph = model.graph
    _, body = _parts(graph)
    weights = {item.name: item for item in graph.initializer}
    made = {name for node in body for name in node.output}
    casts: dict[str, NodeProto] = {}
    for node in body:
        for index, name in enumerate(node.input):
            if name in weights and weights[name].data_type == TensorProto.FLOAT:
                weights[name].CopyFrom(_half(weights[name]))
            elif name and name not in made and name not in weights:
                half = f"{name}_half"
                casts[name] = helper.make_node("Cast", [name], [half], f"{half}_cast", to=TensorProto.FLOAT16)
                node.input[index] = half
    for node in body:
        for names in (node.input, node.output):
            names[:] = [f"{name}_half" if name == _FEATURE_MAP else name for name in names]
    back = helper.make_node(
        "Cast", [f"{_FEATURE_MAP}_half"], [_FEATURE_MAP], f"{_FEATURE_MAP}_cast", to=TensorProto.FLOAT
    )
    nodes = []
    for node in graph.node:
        nodes += [node, back] if f"{_FEATURE_MAP}_half" in node.output else [node]
        nodes += [casts[name] for name in node.output if name in casts]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def _optimised(wrapped: ModelProto) -> ModelProto:
    """The graph after the basic optimisations of ONNX Runtime."""
    opset = next(item.version for item in wrapped.opset_import if item.domain in ("", "ai.onnx"))
    given = wrapped if opset >= _MIN_OPSET else version_converter.convert_version(wrapped, _OPSET)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(given.SerializeToString(), options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    used = {node.domain or "" for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain == "" or item.domain in used]
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.extend(kept)
    return model


def _name_nodes(model: ModelProto) -> None:
    """Give each node a name of its own, and make constants initialisers."""
    graph = model.graph
    nodes = []
    for index, node in enumerate(graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            graph.initializer.append(
                numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t), node.output[0])
            )
            continue
        node.name = f"{index}_{node.name or node.op_type}"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _name_outputs(graph: GraphProto) -> None:
    """Let the tensors of the outputs have their names, without nodes that copy them."""
    copies = {node.input[0]: node.output[0] for node in graph.node
              if node.op_type == "Identity" and node.output[0] in OUTPUTS and node.input[0] not in OUTPUTS}  # fmt: skip
    nodes = [node for node in graph.node if node.op_type != "Identity" or copies.get(node.input[0]) != node.output[0]]
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [copies.get(name, name) for name in names]
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _parts(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes before the first convolution, and those from there to the feature map."""
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv" or behind.intersection(node.input):
            behind.update(node.output)
    needed = {_FEATURE_MAP}
    prologue: list[NodeProto] = []
    body: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            (body if behind.intersection(node.output) else prologue).append(node)
    return prologue, body[::-1]


def _half(weight: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(weight)
    limit = np.finfo(np.float16).max
    return numpy_helper.from_array(np.clip(values, -limit, limit).astype(np.float16), weight.name)


def _refusal(reason: str) -> str:
    return (
        f"--float16 and --int8 need a residual network of convolutions, and this graph {reason}: leave them out to "
        "import it in float32"
    )
