"""Small ONNX classifiers, written with `onnx.helper` in the ways that files of other tools are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5
SIZE = 32

ENDS = ("pool", "mean", "mean18", "matmul", "softmax", "channels last", "fixed batch", "flat")
"""Heads, and forms of the input."""
PROBABILITIES = (
    "softmax cast", "softmax clip", "softmax reshape", "softmax squeeze", "softmax identity", "softmax quantised",
    "softmax percent", "log softmax", "log softmax exp", "softmax by hand", "half", "half input",
)  # fmt: skip
"""Nodes between the logits and the output, which gives probabilities, their multiples or their logarithms."""
FIXED = ("fixed reshape", "fixed reshape -1", "fixed constant", "fixed batch of 4")
"""Batch sizes that are repeated in the graph."""
REFUSED = {
    "sigmoid": "comes from a Sigmoid",
    "sigmoid cast": "comes from a Sigmoid",
    "sigmoid by hand": "do not add up to 1, as of a sigmoid",
    "one value": "gives one value per image, not one per class",
    "class": "is no tensor of numbers with fractions",
    "squeezed batch": "computes batches of 1 only: export it for any batch size",
}
"""Graphs that cannot be served, and the reason."""


class _Graph:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.weights: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.type: np.dtype[Any] = np.dtype(np.float32)

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(self.type))

    def constant(self, values: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"t{len(self.nodes)}"], name, **attributes))
        return str(self.nodes[-1].output[0])


def classifier(end: str, classes: int = CLASSES) -> onnx.ModelProto:
    """Two convolutions, a residual one for this end, and one of the heads or ends; takes `x`, gives `y`."""
    graph = _Graph()
    x = graph.node("Transpose", "x", perm=[0, 3, 1, 2]) if end == "channels last" else "x"
    if end.startswith("half"):
        graph.type = np.dtype(np.float16)
        x = graph.node("Cast", x, to=TensorProto.FLOAT16) if end == "half" else x
    for inputs in (3, 8):
        weight, bias = graph.weight(8, inputs, 3, 3, scale=0.3), graph.weight(8, scale=0.1)
        x = graph.node("Relu", graph.node("Conv", x, weight, bias, strides=[2, 2], pads=[1] * 4))
    if end == "residual":
        weight, bias = graph.weight(8, 8, 3, 3, scale=0.1), graph.weight(8, scale=0.1)
        x = graph.node("Relu", graph.node("Add", graph.node("Conv", x, weight, bias, pads=[1] * 4), x))
    x = _output(graph, _logits(graph, x, end, classes), end, classes)
    graph.nodes[-1].output[0] = "y"
    fixed = {"fixed batch of 4": 4}.get(end, 1 if end.startswith("fixed") or end == "squeezed batch" else "batch")
    shape = [fixed, SIZE, SIZE, 3] if end == "channels last" else [fixed, 3, SIZE, SIZE]
    given = TensorProto.FLOAT16 if end == "half input" else TensorProto.FLOAT
    gives, rank = (TensorProto.INT64, 1) if end == "class" else (given, 2)
    made = helper.make_graph(
        graph.nodes,
        "classifier",
        [helper.make_tensor_value_info("x", given, shape)],
        [helper.make_tensor_value_info("y", gives, [fixed, None][:rank])],
        graph.weights,
    )
    opset = 18 if end == "mean18" else 13
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _logits(graph: _Graph, x: str, end: str, classes: int) -> str:
    """From a feature map to logits."""
    fixed = {"fixed reshape": [1, 8], "fixed constant": [1, 8], "fixed reshape -1": [1, -1], "fixed batch of 4": [4, 8]}
    if end == "flat":
        x = graph.node("Flatten", x)
    elif end == "mean":
        x = graph.node("ReduceMean", x, axes=[2, 3], keepdims=0)
    elif end == "mean18":
        x = graph.node("ReduceMean", x, graph.constant([-1, -2]), keepdims=0)
    elif end == "fixed constant":
        shape = graph.node("Constant", value=numpy_helper.from_array(np.asarray(fixed[end])))
        x = graph.node("Reshape", graph.node("GlobalAveragePool", x), shape)
    elif end in fixed:
        x = graph.node("Reshape", graph.node("GlobalAveragePool", x), graph.constant(fixed[end]))
    elif end == "squeezed batch":
        squeezed = graph.node("Squeeze", graph.node("GlobalAveragePool", x))
        x = graph.node("Unsqueeze", squeezed, graph.constant([0]))
    elif end == "softmax squeeze":
        x = graph.node(
            "Conv", graph.node("GlobalAveragePool", x), graph.weight(classes, 8, 1, 1), graph.weight(classes)
        )
        return x
    else:
        x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    features = 8 * 64 if end == "flat" else 8
    if end == "matmul":
        return graph.node("Add", graph.node("MatMul", x, graph.weight(features, classes)), graph.weight(classes))
    outputs = 1 if end == "one value" else classes
    return graph.node("Gemm", x, graph.weight(outputs, features), graph.weight(outputs), transB=1)


def _output(graph: _Graph, x: str, end: str, classes: int) -> str:
    """From logits to the output."""
    if end == "half":
        x = graph.node("Cast", graph.node("Softmax", x, axis=1), to=TensorProto.FLOAT)
    elif end == "softmax by hand":
        powers = graph.node("Exp", x)
        x = graph.node("Div", powers, graph.node("ReduceSum", powers, graph.constant([1]), keepdims=1))
    elif end == "sigmoid by hand":
        one = graph.constant(np.float32(1))
        x = graph.node("Reciprocal", graph.node("Add", graph.node("Exp", graph.node("Neg", x)), one))
    elif end == "class":
        x = graph.node("ArgMax", x, axis=1)
    elif end.startswith(("softmax", "half")):
        x = graph.node("Softmax", x, axis=1)
    elif end.startswith("sigmoid"):
        x = graph.node("Sigmoid", x)
    elif end.startswith("log softmax"):
        x = graph.node("LogSoftmax", x, axis=1)
    return _after_activation(graph, x, end, classes)


def _after_activation(graph: _Graph, x: str, end: str, classes: int) -> str:
    if end in ("softmax cast", "sigmoid cast"):
        half = graph.node("Cast", x, to=TensorProto.FLOAT16)
        x = graph.node("Cast", half, to=TensorProto.FLOAT)
    elif end == "softmax clip":
        x = graph.node("Clip", x, graph.constant(np.float32(1e-7)), graph.constant(np.float32(1 - 1e-7)))
    elif end == "softmax reshape":
        x = graph.node("Reshape", x, graph.constant([-1, classes]))
    elif end == "softmax squeeze":
        x = graph.node("Squeeze", x, graph.constant([2, 3]))
    elif end == "softmax identity":
        x = graph.node("Identity", x)
    elif end == "softmax quantised":
        step = (graph.constant(np.float32(1 / 255)), graph.constant(np.uint8(0)))
        x = graph.node("DequantizeLinear", graph.node("QuantizeLinear", x, *step), *step)
    elif end == "softmax percent":
        x = graph.node("Mul", x, graph.constant(np.float32(100)))
    elif end == "log softmax exp":
        x = graph.node("Exp", x)
    return x
