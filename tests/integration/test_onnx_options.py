"""Options of `resnet-export import --onnx`: the pixels that a classifier takes, its heads, and its precisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from export.__main__ import app
from export.verify import OnnxRunner
from models.artifact import manifest
from models.runtime.onnxruntime import ort
from tests.support.onnx_classifiers import CLASSES, SIZE, classifier
from tests.support.tiny import cut

Array = NDArray[Any]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    return tmp_path / "labels.txt"


def run(model: onnx.ModelProto, labels: Path, *options: str) -> tuple[Path, str]:
    """The version, or its absence, and the output of the command."""
    path, repository = labels.with_name("a.onnx"), labels.with_name("repository")
    onnx.save(model, path)
    arguments = ["import", str(path), "--onnx", "--repository", str(repository), "--name", "m", "--labels", str(labels)]
    done = CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "500"})
    return repository / "m" / "1", done.output


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def integers() -> onnx.ModelProto:
    """The network on uint8, which it casts itself."""
    model = classifier("pool")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "f"
    return model


def dimensionless() -> onnx.ModelProto:
    """Channels last, in a file that names no dimension."""
    model = classifier("channels last")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", "c", "d"]))
    return model


def heads() -> onnx.ModelProto:
    model = classifier("pool")
    model.graph.node.append(helper.make_node("Neg", ["y"], ["aux"]))
    model.graph.output.append(helper.make_tensor_value_info("aux", TensorProto.FLOAT, ["batch", CLASSES]))
    return model


MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
TAKEN: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], Callable[[Array], Array]]] = {
    "caffe": (
        lambda: classifier("channels last"),
        ("--pixels", "caffe"),
        lambda images: images[..., ::-1] - np.array((103.939, 116.779, 123.68)),
    ),
    "tf": (lambda: classifier("channels last"), ("--pixels", "tf"), lambda images: images / 127.5 - 1),
    "bgr": (
        lambda: classifier("pool"),
        ("--bgr",),
        lambda images: ((images / 255 - MEAN) / STD)[..., ::-1].transpose(0, 3, 1, 2),
    ),
    "bytes": (integers, (), lambda images: images.transpose(0, 3, 1, 2)),
    "no dimension": (dimensionless, ("--size", "32", "--pixels", "unit"), lambda images: images / 255),
    "heads": (heads, ("--logits", "y", "--pixels", "raw"), lambda images: images.transpose(0, 3, 1, 2)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_version_feeds_the_pixels_that_the_file_takes(
    name: str, labels: Path, photographs: list[tuple[str, bytes]]
) -> None:
    make, options, prepare = TAKEN[name]
    version, output = run(make(), labels, *options)
    assert version.exists(), output
    images = np.stack([cut(data) for _, data in photographs])
    session = ort.InferenceSession(make().SerializeToString(), providers=["CPUExecutionProvider"])
    dtype = np.uint8 if name == "bytes" else np.float32
    expected = softmax(session.run(["y"], {"x": prepare(images).astype(dtype)})[0])
    np.testing.assert_allclose(OnnxRunner(version / "model.onnx").probabilities(images), expected, atol=2e-4)


def normalises() -> onnx.ModelProto:
    model = classifier("pool")
    model.graph.node.insert(0, helper.make_node("Mul", ["x", "half"], ["f"]))
    model.graph.node[1].input[0] = "f"
    model.graph.initializer.append(helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]))
    return model


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (normalises, (), "begins with arithmetic on the pixels"),
        (integers, ("--pixels", "tf"), "takes whole numbers from 0 to 255"),
        (heads, (), "several outputs (y, aux): name the one"),
        (heads, ("--logits", "z"), "has no output z; it has: y, aux"),
        (heads, ("--pixels", "mxnet"), "--pixels mxnet: there are torch, tf, caffe, unit, raw"),
        (lambda: classifier("pool"), ("--pixels", "tf", "--mean", "0,0,0"), "leave out --mean and --std"),
        (lambda: classifier("pool"), ("--int8",), "this graph has no additions of shortcuts"),
        (lambda: classifier("flat"), ("--float16",), "this graph has no average over the last feature map"),
    ],
)
def test_unclear_or_unfit_choices_are_refused(
    make: Callable[[], onnx.ModelProto], options: tuple[str, ...], message: str, labels: Path
) -> None:
    version, output = run(make(), labels, *options)
    assert message in output
    assert not version.parent.exists()


@pytest.mark.slow
def test_int8_and_half_precision_are_measured_on_data(labels: Path, tmp_path: Path) -> None:
    """Each class has a colour of its own, and accuracy is what the file itself has on these images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, SIZE, SIZE, 3), np.uint8) // 2 + rng.integers(0, 128, (20, 1, 1, 3), np.uint8)
    for index, image in enumerate(images):
        folder = tmp_path / "data" / "test" / f"class {index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:02d}.png")
    model = classifier("residual")
    version, output = run(model, labels, "--int8", "--float16", "--data", f"{tmp_path}/data", "--resize", "0")
    assert version.exists(), output
    described = {artifact.file: artifact for artifact in manifest.read(version).artifacts}
    assert list(described) == ["model.onnx", "model.fp16.onnx", "model.int8-ort.onnx", "model.int8.onnx"]
    order = [index for label in range(CLASSES) for index in range(label, 20, CLASSES)][1::2]
    pixels = ((images[order] / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    top1 = float((session.run(["y"], {"x": pixels})[0].argmax(1) == np.array(order) % CLASSES).mean())
    accuracy = described["model.onnx"].accuracy
    assert accuracy is not None
    assert (accuracy.top1, accuracy.images) == (top1, 10)
    for file in ("model.int8-ort.onnx", "model.int8.onnx"):
        assert described[file].quantization is not None
        kinds = {node.op_type for node in onnx.load(version / file).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    halves = onnx.load(version / "model.fp16.onnx").graph.initializer
    assert sum(item.data_type == TensorProto.FLOAT16 for item in halves) == 6, "three convolutions with their biases"
