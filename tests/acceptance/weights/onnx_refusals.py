"""ONNX files that cannot be served: how each is written, its options, and words that must be in the refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType

from models.runtime.onnxruntime import ort
from tests.acceptance.weights.onnx_files import (
    CLASSES,
    SIZE,
    base,
    changed,
    dynamo,
    embedded,
    node,
    quantised,
    script,
    set_input,
    set_outputs,
    weight,
    wrapped,
)  # fmt: skip


def zip_map(model: ModelProto) -> None:
    """A sequence of dictionaries, as converters of scikit-learn write it."""
    end = len(model.graph.node)
    node(model, end, "ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_int64s=list(range(CLASSES)))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    del model.graph.output[:]
    model.graph.output.append(helper.make_value_info("z", helper.make_sequence_type_proto(kind)))


def names_of_classes(model: ModelProto) -> None:
    """The name of the best class, as text."""
    end = len(model.graph.node)
    node(model, end, "ArgMax", ["y"], ["best"], axis=1, keepdims=0)
    names = weight(model, "names", np.array([f"class {index}" for index in range(CLASSES)], object))
    node(model, end + 1, "Gather", [names, "best"], ["label"])
    set_outputs(model, ("label", TensorProto.STRING, ["n"]))


def detector(model: ModelProto) -> None:
    """Boxes and scores of each cell of the last feature map."""
    end = len(model.graph.node)
    rng = np.random.default_rng(0)
    for name, outputs in (("boxes", 4), ("scores", CLASSES)):
        kernel = weight(model, f"{name}/w", rng.standard_normal((outputs, 64, 1, 1)).astype(np.float32))
        feature_map = next(item.input[0] for item in model.graph.node if item.op_type == "GlobalAveragePool")
        node(model, end, "Conv", [feature_map, kernel], [name])
    set_outputs(
        model, ("boxes", TensorProto.FLOAT, ["n", 4, 2, 2]), ("scores", TensorProto.FLOAT, ["n", CLASSES, 2, 2])
    )


def segmentation(model: ModelProto) -> None:
    detector(model)
    del model.graph.output[0]


def two_inputs(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("image_shape", TensorProto.FLOAT, ["n", 2]))


def huge(model: ModelProto) -> None:
    """A file of some hundred kilobytes that asks for 400 GB."""
    end = len(model.graph.node)
    zeros = numpy_helper.from_array(np.zeros(1, np.float32))
    node(model, end, "ConstantOfShape", [weight(model, "many", np.array([10**11]))], ["zeros"], value=zeros)
    node(model, end + 1, "ReduceSum", ["zeros"], ["sum"], keepdims=0)
    node(model, end + 2, "Add", ["y", "sum"], ["z"])
    set_outputs(model, ("z", TensorProto.FLOAT, ["n", CLASSES]))


def _optimised(path: Path) -> None:
    """With the operators of ONNX Runtime alone, as its full optimisation writes them."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(base().SerializeToString(), options, providers=["CPUExecutionProvider"])


def _without_data(path: Path) -> None:
    dynamo(18, external=True)(path)
    for file in path.parent.glob("*.data"):
        file.unlink()


def _leaving(path: Path) -> None:
    """Weights in a file outside of the folder."""
    model = base()
    first = model.graph.initializer[0]
    first.ClearField("raw_data")
    first.data_location = TensorProto.EXTERNAL
    first.external_data.add(key="location", value="../../../../../etc/passwd")
    path.write_bytes(model.SerializeToString())


def _cut(path: Path) -> None:
    onnx.save(base(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def _text(path: Path) -> None:
    path.write_text("<html>404")


def tokens(model: ModelProto) -> None:
    set_input(model, TensorProto.INT64, ["n", 77])


REFUSALS: Mapping[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "best class": (script(13, wrapped(lambda y: y.argmax(1))), (), "without the choice of a class"),
    "sigmoid": (script(13, wrapped(torch.sigmoid)), (), "comes from a Sigmoid"),
    "one value per image": (script(13, wrapped(lambda y: y[:, :1])), (), "one value per image"),
    "ZipMap": (changed(zip_map), (), "is no tensor of numbers"),
    "text": (changed(names_of_classes), (), "is no tensor of numbers"),
    "two heads": (script(13, wrapped(lambda y: (y, -y)), outputs=("y", "aux")), (), "with --logits"),
    "no such head": (script(13), ("--logits", "z"), "has no output z"),
    "detector": (changed(detector), (), "several outputs (boxes, scores)"),
    "detector's scores": (changed(detector), ("--logits", "scores"), "values of several places"),
    "segmentation": (changed(segmentation), (), "values of several places"),
    "two inputs": (changed(two_inputs), (), "takes 2 inputs"),
    "tokens": (changed(tokens), (), "not images of 1 or 3 channels"),
    "four channels": (
        changed(lambda model: set_input(model, TensorProto.FLOAT, ["n", 4, SIZE, SIZE])), (), "not images"),
    "normalises": (changed(embedded), (), "--pixels raw"),
    "other size": (script(13), ("--size", "96"), "takes images of (64, 64)"),
    "pixels and mean": (script(13), ("--pixels", "tf", "--mean", "0.5,0.5,0.5"), "leave out --mean and --std"),
    "unknown pixels": (script(13), ("--pixels", "keras"), "there are torch, tf, caffe, unit, raw"),
    "quantiser, QDQ, unsigned": (quantised(QuantFormat.QDQ, QuantType.QUInt8), (), "activation_type=QuantType.QInt8"),
    "quantiser, QOperator": (quantised(QuantFormat.QOperator, QuantType.QUInt8), (), "com.microsoft"),
    "optimised by ONNX Runtime": (_optimised, (), "com.microsoft.FusedConv"),
    "huge": (changed(huge), (), "onnx: "),
    "no external data": (_without_data, (), "beside it that cannot be read"),
    "external data elsewhere": (_leaving, (), "onnx: "),
    "cut": (_cut, (), "is no ONNX model"),
    "web page": (_text, (), "onnx: "),
}  # fmt: skip
