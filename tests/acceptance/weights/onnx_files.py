"""ONNX classifiers of other tools: how each is written, its options, and the pixels that it takes.

TensorFlow is not installed: graphs in the shape of tf2onnx and keras2onnx are written with `onnx.helper`, with the
nodes, names and order of these converters.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from tests.acceptance.weights.converter_process import to_float16
from tests.support.foreign_networks import resnet18

CLASSES, SIZE = 10, 64
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
CAFFE = np.array((103.939, 116.779, 123.68))
"""Blue, green, red."""

Array = NDArray[Any]
Prepare = Callable[[Array], Array]
"""From uint8 [n, H, W, C] to the input of the file, here in the words of the tool that made it."""


def torch_pixels(images: Array) -> Array:
    return np.asarray(((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2), np.float32)


def caffe_pixels(images: Array) -> Array:
    return np.asarray(images[..., ::-1] - CAFFE, np.float32)


@dataclass(frozen=True)
class Classifier:
    """A file that must give its own probabilities after the import."""

    write: Callable[[Path], None]
    options: tuple[str, ...] = ()
    prepare: Prepare = torch_pixels
    output: str = "y"
    activation: str = "softmax"
    """From the output to probabilities: softmax, exp or none."""
    tolerance: float = 1e-4
    channels: int = 3


@functools.cache
def network(channels: int = 3) -> nn.Module:
    model = resnet18(CLASSES, channels, width=8)
    with torch.no_grad():  # clear answers, so that another order of the channels changes them
        for parameter in model.fc.parameters():
            parameter.mul_(10)
    return model


class Wrapped(nn.Module):
    """A network with something before and after it."""

    def __init__(self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.before, self.after = network(), before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.model(self.before(x)))


def same(x: Tensor) -> Tensor:
    return x


def wrapped(after: Callable[[Tensor], Any], before: Callable[[Tensor], Tensor] = same) -> nn.Module:
    return Wrapped(before, after).eval()


def script(opset: int, model: nn.Module | None = None, example: Tensor | None = None, batch: int = 0,
           outputs: tuple[str, ...] = ("y",), **axes: dict[int, str]) -> Callable[[Path], None]:  # fmt: skip
    """The exporter over TorchScript; `batch` 0 is any."""

    def write(path: Path) -> None:
        given = torch.zeros(batch or 2, 3, SIZE, SIZE) if example is None else example
        free = {} if batch else {name: {0: "batch"} for name in ("x", *outputs)}
        with _quiet():
            torch.onnx.export(model or network(), (given,), str(path), dynamo=False, opset_version=opset,
                              input_names=["x"], output_names=list(outputs), dynamic_axes={**free, **axes})  # fmt: skip

    return write


def dynamo(opset: int, batch: int = 0, external: bool = False, model: nn.Module | None = None,
           example: Tensor | None = None) -> Callable[[Path], None]:  # fmt: skip
    """The exporter over `torch.export`."""

    def write(path: Path) -> None:
        given = torch.zeros(batch or 2, 3, SIZE, SIZE) if example is None else example
        with _quiet():
            program = torch.onnx.export(
                model or network(), (given,), dynamo=True, opset_version=opset, input_names=["x"], output_names=["y"],
                dynamic_shapes=None if batch else ({0: "batch"},), verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(str(path), external_data=external)

    return write


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def base() -> ModelProto:
    """The network as the exporter over TorchScript writes it."""
    content = io.BytesIO()
    with _quiet():
        torch.onnx.export(
            network(), (torch.zeros(2, 3, SIZE, SIZE),), content, dynamo=False, opset_version=17,  # type: ignore[arg-type]
            input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip
    return onnx.load_from_string(content.getvalue())


def changed(change: Callable[[ModelProto], None]) -> Callable[[Path], None]:
    """The network with a change to its graph."""

    def write(path: Path) -> None:
        model = base()
        change(model)
        onnx.save(model, path)

    return write


def node(model: ModelProto, place: int, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
    """Insert a node."""
    model.graph.node.insert(place, helper.make_node(kind, inputs, outputs, f"new/{outputs[0]}", **attributes))


def weight(model: ModelProto, name: str, values: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def reads(model: ModelProto, old: str, new: str) -> None:
    """Let all nodes but the new ones read another tensor."""
    for each in model.graph.node:
        if not each.name.startswith("new/"):
            each.input[:] = [new if name == old else name for name in each.input]


def set_input(model: ModelProto, kind: int, shape: list[Any], name: str = "x") -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, kind, shape))


def set_outputs(model: ModelProto, *outputs: tuple[str, int, list[Any]]) -> None:
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(*output) for output in outputs)


def tensorflow(softmax: bool = True) -> Callable[[ModelProto], None]:
    """tf2onnx: NHWC, a Transpose and a Pad at the front, a MatMul and an Add at the end, names with `:0`."""

    def change(model: ModelProto) -> None:
        first, last = model.graph.node[0], model.graph.node[-1]
        reads(model, "x", "resnet/conv1_pad/Pad:0")
        pads = weight(model, "const_pads", np.array([0, 0, 3, 3, 0, 0, 3, 3]))
        node(model, 0, "Transpose", ["input_1"], ["resnet/conv1_pad/Pad__6:0"], perm=[0, 3, 1, 2])
        node(model, 1, "Pad", ["resnet/conv1_pad/Pad__6:0", pads], ["resnet/conv1_pad/Pad:0"])
        next(item for item in first.attribute if item.name == "pads").ints[:] = [0] * 4
        values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        kernel = weight(model, "predictions/MatMul/ReadVariableOp:0", np.ascontiguousarray(values[last.input[1]].T))
        features, bias = last.input[0], last.input[2]
        model.graph.node.remove(last)
        end = len(model.graph.node)
        node(model, end, "MatMul", [features, kernel], ["resnet/predictions/MatMul:0"])
        node(model, end + 1, "Add", ["resnet/predictions/MatMul:0", bias], ["resnet/predictions/BiasAdd:0"])
        output = "resnet/predictions/BiasAdd:0"
        if softmax:
            node(model, end + 2, "Softmax", [output], ["Identity:0"])
            output = "Identity:0"
        set_input(model, TensorProto.FLOAT, ["unk__1", SIZE, SIZE, 3], "input_1")
        set_outputs(model, (output, TensorProto.FLOAT, ["unk__2", CLASSES]))

    return change


def keras(model: ModelProto) -> None:
    """keras2onnx: NHWC, batch normalisation of its own behind a convolution, a pool of positions, opset 11."""
    tensorflow()(model)
    conv = next(item for item in model.graph.node if item.op_type == "Conv")
    scale, shift = (np.full(8, value, np.float32) for value in (0.5, 0.1))
    inputs = [weight(model, f"bn_conv1/{name}", values) for name, values in
              (("gamma", scale), ("beta", shift), ("mean", shift), ("variance", scale))]  # fmt: skip
    output = conv.output[0]
    conv.output[0] = "conv1_conv/BiasAdd"
    place = list(model.graph.node).index(conv) + 1
    node(model, place, "BatchNormalization", ["conv1_conv/BiasAdd", *inputs], [output], epsilon=1.001e-5)


def embedded(model: ModelProto) -> None:
    """Division by 255, mean and standard deviation in the graph, on pixels from 0 to 255."""
    reads(model, "x", "normalised")
    size = np.array(255, np.float32)
    node(model, 0, "Div", ["x", weight(model, "c255", size)], ["unit"])
    node(model, 1, "Sub", ["unit", weight(model, "cmean", MEAN.reshape(1, 3, 1, 1).astype(np.float32))], ["centred"])
    node(
        model, 2, "Div", ["centred", weight(model, "cstd", STD.reshape(1, 3, 1, 1).astype(np.float32))], ["normalised"]
    )


def bytes_first(model: ModelProto) -> None:
    """uint8 [N, C, H, W] with the normalisation inside."""
    embedded(model)
    node(model, 0, "Cast", ["x"], ["float"], to=TensorProto.FLOAT)
    model.graph.node[1].input[0] = "float"
    set_input(model, TensorProto.UINT8, ["n", 3, SIZE, SIZE])


def bytes_last(model: ModelProto) -> None:
    """uint8 [N, H, W, C], transposed as bytes."""
    bytes_first(model)
    node(model, 0, "Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2])
    model.graph.node[1].input[0] = "planes"
    set_input(model, TensorProto.UINT8, ["n", SIZE, SIZE, 3])


def conditional(model: ModelProto) -> None:
    """An If on a constant, of which one branch doubles the features."""
    last = model.graph.node[-1]
    features, inner = last.input[0], helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    yes = helper.make_graph([helper.make_node("Identity", [features], ["b"])], "yes", [], [inner])
    no = helper.make_graph([helper.make_node("Add", [features, features], ["b"])], "no", [], [inner])
    node(model, len(model.graph.node) - 1, "If", [weight(model, "flag", np.array(True))], ["chosen"],
         then_branch=yes, else_branch=no)  # fmt: skip
    last.input[0] = "chosen"


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._rest = [torch_pixels(generator.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)) for _ in range(4)]

    def get_next(self) -> dict[str, Array] | None:
        return {"x": self._rest.pop()} if self._rest else None


def quantised(format: QuantFormat, activations: QuantType, **extra: Any) -> Callable[[Path], None]:
    """ONNX Runtime's static quantiser."""

    def write(path: Path) -> None:
        onnx.save(base(), path.with_suffix(".float.onnx"))
        logging.disable(logging.WARNING)
        quantize_static(path.with_suffix(".float.onnx"), path, _Images(), quant_format=format, per_channel=True,
                        activation_type=activations, weight_type=QuantType.QInt8, extra_options=extra)  # fmt: skip
        logging.disable(logging.NOTSET)

    return write


def half(keep: bool) -> Callable[[Path], None]:
    """onnxconverter-common's converter."""

    def write(path: Path) -> None:
        onnx.save(base(), path.with_suffix(".float.onnx"))
        to_float16(path.with_suffix(".float.onnx"), path, keep)

    return write


FIT = ("--size", str(SIZE))
CLASSIFIERS: Mapping[str, Classifier] = {
    **{f"TorchScript, opset {opset}": Classifier(script(opset)) for opset in (9, 10, 11, 12, 13, 15, 17)},
    **{f"dynamo, opset {opset}": Classifier(dynamo(opset)) for opset in (18, 20, 21, 23)},
    "TorchScript, batch 1": Classifier(script(13, batch=1)),
    "TorchScript, batch 4": Classifier(script(13, batch=4)),
    "dynamo, batch 1": Classifier(dynamo(18, batch=1)),
    "dynamic sizes": Classifier(script(17, x={0: "n", 2: "h", 3: "w"}), FIT),
    "no dimension known": Classifier(
        changed(lambda model: set_input(model, TensorProto.FLOAT, ["a", "b", "c", "d"])), FIT),
    "external data": Classifier(dynamo(18, external=True)),
    "softmax": Classifier(script(13, wrapped(lambda y: y.softmax(1))), activation="none"),
    "log softmax": Classifier(script(13, wrapped(lambda y: y.log_softmax(1))), activation="exp"),
    "[N, C, 1, 1]": Classifier(script(13, wrapped(lambda y: y[:, :, None, None]))),
    "squeezed softmax": Classifier(
        script(13, wrapped(lambda y: y[:, :, None, None].softmax(1).squeeze(3).squeeze(2))), activation="none"),
    "logits and probabilities": Classifier(
        script(13, wrapped(lambda y: (y, y.softmax(1))), outputs=("y", "p"))),
    "two heads": Classifier(
        script(13, wrapped(lambda y: (y, y.flip(1) * 2)), outputs=("y", "aux")), ("--logits", "y")),
    "class and probabilities": Classifier(
        script(13, wrapped(lambda y: (y.argmax(1), y.softmax(1))), outputs=("label", "y")), ("--logits", "y"),
        activation="none"),
    "tf2onnx, caffe": Classifier(changed(tensorflow()), ("--pixels", "caffe"), caffe_pixels, "Identity:0", "none"),
    "tf2onnx, tf": Classifier(changed(tensorflow(softmax=False)), ("--pixels", "tf"),
                              lambda images: (images / 127.5 - 1).astype(np.float32), "resnet/predictions/BiasAdd:0"),
    "keras2onnx, caffe": Classifier(changed(keras), ("--pixels", "caffe"), caffe_pixels, "Identity:0", "none"),
    "unit": Classifier(script(13), ("--pixels", "unit"),
                       lambda images: (images / 255).transpose(0, 3, 1, 2).astype(np.float32)),
    "OpenCV": Classifier(script(13), ("--bgr",), lambda images: torch_pixels(images)[:, ::-1].copy()),
    "mean and std": Classifier(script(13), ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4"), lambda images: (
        (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).transpose(0, 3, 1, 2).astype(np.float32)),
    "normalises, raw": Classifier(changed(embedded), ("--pixels", "raw"),
                                  lambda images: images.transpose(0, 3, 1, 2).astype(np.float32)),
    "bytes, NCHW": Classifier(changed(bytes_first), prepare=lambda images: images.transpose(0, 3, 1, 2)),
    "bytes, NHWC": Classifier(changed(bytes_last), prepare=lambda images: images),
    "double": Classifier(script(13, wrapped(lambda y: y, lambda x: x.float()), torch.zeros(2, 3, SIZE, SIZE).double()),
                         prepare=lambda images: torch_pixels(images).astype(np.float64)),
    "converter, float16": Classifier(half(False), prepare=lambda images: torch_pixels(images).astype(np.float16),
                                     tolerance=0.02),
    "converter, float16, float in and out": Classifier(half(True), tolerance=0.02),
    "quantiser, QDQ, signed": Classifier(
        quantised(QuantFormat.QDQ, QuantType.QInt8, ActivationSymmetric=True), tolerance=0.02),
    "unused domain": Classifier(
        changed(lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)))),
    "If": Classifier(changed(conditional)),
    "grey": Classifier(script(13, network(1), torch.zeros(2, 1, SIZE, SIZE)), ("--mean", "0.45", "--std", "0.2"),
                       lambda images: ((images / 255 - 0.45) / 0.2).transpose(0, 3, 1, 2).astype(np.float32),
                       channels=1),
}  # fmt: skip
