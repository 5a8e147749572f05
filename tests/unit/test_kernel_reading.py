"""ONNX graphs as layers of the CUDA engine: what is fused, and the reasons of refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.errors import UnsupportedNetwork
from export.fusion import residual_adds
from export.kernels.reading.reader import read, read_model
from tests.support import tiny

TINY = tiny.FOLDER / tiny.REPOSITORY / "tiny" / "1"


@pytest.fixture(params=["model.onnx", "model.int8.onnx"])
def file(request: pytest.FixtureRequest) -> Path:
    return TINY / str(request.param)


def test_every_node_is_in_one_layer_or_part_of_a_form(file: Path) -> None:
    graph = onnx.load(file).graph
    network = read(file)
    named = [name for step in network.steps for name in getattr(step, "nodes", ())] + list(network.pixels.nodes)
    assert len(named) == len(set(named))
    left = {node.op_type for node in graph.node if node.name not in named}
    assert left <= {"Relu", "QuantizeLinear", "DequantizeLinear"}


def test_all_additions_are_inside_convolutions(file: Path) -> None:
    expected = {node.name for node in residual_adds(onnx.load(file).graph)}
    found = [name for conv in read(file).convolutions for name in conv.additions]
    assert set(found) == expected != set()
    assert len(found) == len(expected)


def test_int8_scales_are_those_of_the_file() -> None:
    network = read(TINY / "model.int8.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(TINY / "model.int8.onnx").graph.initializer}
    assert all(conv.is_int8 for conv in network.convolutions)
    for conv in network.convolutions:
        weight = next(
            name
            for name, value in constants.items()
            if value.shape == conv.weight.shape and np.array_equal(value, conv.weight)
        )
        scale = constants[weight.replace("_quantized", "_scale")]
        assert conv.weight_scale is not None
        np.testing.assert_array_equal(conv.weight_scale, scale)
    # The last convolution is not rounded: the head and the feature map read it.
    assert [conv.forms[0].scale is None for conv in network.convolutions][-1]
    assert network.pixels.form.scale is not None


def test_outputs_are_those_of_the_graph(file: Path) -> None:
    graph = onnx.load(file).graph
    expected = [
        (output.name, tuple(size.dim_value for size in output.type.tensor_type.shape.dim[1:]))
        for output in graph.output
    ]
    assert list(read(file).outputs) == expected


def _node(model: ModelProto, kind: str, place: int = 0) -> onnx.NodeProto:
    found: list[onnx.NodeProto] = [node for node in model.graph.node if node.op_type == kind]
    return found[place]


def _attribute(kind: str, name: str, value: object) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        node = _node(model, kind)
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _operator(kind: str, new: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        _node(model, kind).op_type = new

    return change


def _float_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _sum_of_two_activations(model: ModelProto) -> None:
    """The shortcut and the branch of an addition are both read by another node, too."""
    add = _node(model, "Add")
    model.graph.node.append(helper.make_node("Relu", [add.input[0]], ["more"], "more"))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_attribute("Conv", "dilations", [2, 2]), "node_conv2d: it has a dilation"),
        (_attribute("Conv", "strides", [1, 2]), "differs by direction"),
        (_attribute("Conv", "pads", [0, 0, 1, 1]), "differs by direction"),
        (_operator("Relu", "Sigmoid"), "the operator Sigmoid"),
        (_operator("Softmax", "LogSoftmax"), "the operator LogSoftmax"),
        (_operator("Relu", "Shape"), "the operator Shape"),
        (_attribute("ReduceMean", "keepdims", 1), "a mean over other dimensions|not the pooled features"),
        (_attribute("Softmax", "axis", 0), "a softmax of other values"),
        (_attribute("Gemm", "alpha", 2.0), "not the pooled features"),
        (_attribute("Transpose", "perm", [0, 3, 2, 1]), "moves other dimensions"),
        (_float_input, "is not uint8"),
        (_sum_of_two_activations, "no convolution computes one of its summands"),
    ],
)
def test_other_graphs_are_refused_with_the_reason(change: Callable[[ModelProto], None], message: str) -> None:
    model = onnx.load(TINY / "model.onnx")
    change(model)
    with pytest.raises(UnsupportedNetwork, match=message):
        read_model(model)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(UnsupportedNetwork, match=r"broken\.onnx"):
        read(path)


def test_pixels_are_what_the_graph_makes_of_each_byte() -> None:
    network = read(TINY / "model.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(TINY / "model.onnx").graph.initializer}
    subtracted, factor = (
        next(constants[node.input[1]] for node in onnx.load(TINY / "model.onnx").graph.node if node.op_type == kind)
        for kind in ("Sub", "Mul")
    )
    byte = np.arange(256, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(network.pixels.values, (byte - subtracted.reshape(1, -1)) * factor.reshape(1, -1))
