"""Imported ONNX classifiers give the answers of the file, and lack the outputs that it lacks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from export.__main__ import app
from export.complexity import count_multiply_adds
from export.errors import BuildError, ForeignWeights
from export.verify import OnnxRunner, verify_version
from export.wrapping import OnnxOptions, import_onnx
from models.artifact import manifest
from models.artifact.manifest import Architecture
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.runtime.onnxruntime import ort
from models.validation import first_line
from service.core.settings import Settings
from tests.support.onnx_classifiers import CLASSES, ENDS, FIXED, PROBABILITIES, REFUSED, classifier
from tests.support.service import Client, serve
from tests.support.tiny import cut

MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
WISHES: dict[str, Any] = {"size": (32, 32), "resize": 36}

WITHOUT_MAPS = {"softmax squeeze", "softmax percent", "log softmax exp", "softmax by hand"}
"""Ends before which no last layer is found."""
ROUNDED = {"softmax quantised", "softmax cast", "half", "half input"}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    return path


@pytest.fixture(scope="module")
def repository(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each of the ends."""
    folder = tmp_path_factory.mktemp("wrapped")
    for end in ENDS:
        onnx.save(classifier(end), folder / f"{end}.onnx")
        import_onnx(folder / f"{end}.onnx", folder / "repository", end.replace(" ", "-"), OnnxOptions(labels, WISHES))
    return folder / "repository"


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[Client]:
    with serve(Settings(repository=repository)) as client:
        yield client


def reference(end: str, pixels: UInt8Array) -> Float32Array:
    """Probabilities [classes] that the file itself gives for uint8 [32, 32, 3]."""
    normalised = (pixels / 255 - MEAN) / STD
    given = normalised if end == "channels last" else normalised.transpose(2, 0, 1)
    session = ort.InferenceSession(classifier(end).SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.stack([given] * (4 if end == "fixed batch of 4" else 1))
    dtype = np.float16 if end == "half input" else np.float32
    row = session.run(["y"], {"x": images.astype(dtype)})[0][0].astype(np.float64)
    if end in ("softmax", *PROBABILITIES) and end != "log softmax":
        return np.asarray(row / row.sum(), np.float32)
    exponentials = np.exp(row - row.max())
    probabilities: Float32Array = exponentials / exponentials.sum()
    return probabilities


@pytest.mark.slow
@pytest.mark.parametrize("end", [*PROBABILITIES, *FIXED])
def test_probabilities_and_batches_are_those_of_the_file(
    end: str, labels: Path, photographs: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    onnx.save(classifier(end), tmp_path / "model.onnx")
    imported = import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", OnnxOptions(labels, WISHES))
    pixels = np.stack([cut(data) for _, data in photographs])
    found = OnnxRunner(imported.version / "model.onnx").probabilities(pixels)
    expected = np.stack([reference(end, image) for image in pixels])
    np.testing.assert_allclose(found, expected, atol=0.01 if end in ROUNDED else 1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert imported.maps == (end not in WITHOUT_MAPS)


@pytest.mark.parametrize("end", REFUSED)
def test_outputs_that_cannot_be_served_are_refused(end: str, labels: Path, tmp_path: Path) -> None:
    onnx.save(classifier(end), tmp_path / "model.onnx")
    with pytest.raises(ForeignWeights, match=REFUSED[end]) as raised:
        import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", OnnxOptions(labels, WISHES))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("end", ENDS)
def test_service_answers_like_the_original_file(end: str, client: Client, photographs: list[tuple[str, bytes]]) -> None:
    files = [("image", (name, data, "image/jpeg")) for name, data in photographs]
    answer = client.post(f"/v1/models/{end.replace(' ', '-')}/classify?top_k={CLASSES}", files=files).json()
    for (_, data), result in zip(photographs, answer["results"], strict=True):
        found = {item["index"]: item["probability"] for item in result["predictions"]}
        expected = reference(end, cut(data))
        np.testing.assert_allclose([found[index] for index in range(CLASSES)], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_multiply_adds_are_counted(end: str, repository: Path) -> None:
    convolutions = 8 * 16 * 16 * 3 * 3 * 3 + 8 * 8 * 8 * 8 * 3 * 3
    head = CLASSES * (8 * 64 if end == "flat" else 8)
    described = manifest.read(repository / end.replace(" ", "-") / "1")
    assert described.architecture.multiply_adds == convolutions + head


@pytest.mark.slow
def test_verify_agrees(repository: Path) -> None:
    for end in ENDS:
        assert verify_version(repository / end.replace(" ", "-") / "1")["model.onnx"].top1_agreement == 1.0


@pytest.mark.parametrize("end", [end for end in ENDS if end != "flat"])
def test_maps_and_embedding_where_the_graph_has_them(
    end: str, client: Client, photographs: list[tuple[str, bytes]]
) -> None:
    """The sum of a map and the bias of its class are the logit: differences of sums are those of log-probabilities."""
    name = end.replace(" ", "-")
    assert client.get(f"/v1/models/{name}").json()["cam"]
    path = f"/v1/models/{name}/classify?top_k={CLASSES}&cam=values&embedding=true"
    (result,) = client.post(path, content=photographs[0][1]).json()["results"]
    assert len(result["embedding"]) == 8
    (bias,) = (
        numpy_helper.to_array(item) for item in classifier(end).graph.initializer if list(item.dims) == [CLASSES]
    )
    logits = np.array([np.sum(item["cam"]) + bias[item["index"]] for item in result["predictions"]])
    logarithms = np.log([item["probability"] for item in result["predictions"]])
    np.testing.assert_allclose(logits - logits[0], logarithms - logarithms[0], atol=1e-4)


@pytest.mark.parametrize(
    ("query", "message"), [("cam=values", "has no feature_map"), ("embedding=true", "has no embedding")]
)
def test_missing_outputs_are_refused(
    query: str, message: str, client: Client, photographs: list[tuple[str, bytes]]
) -> None:
    answer = client.post(f"/v1/models/flat/classify?{query}", content=photographs[0][1])
    assert answer.status_code == 400
    assert message in answer.json()["detail"]
    assert not client.get("/v1/models/flat").json()["cam"]


def test_v2_lists_the_outputs_of_the_graph(client: Client, photographs: list[tuple[str, bytes]]) -> None:
    config = client.get("/v2/models/flat/config").json()
    assert config["parameters"]["outputs_on_request"]["string_value"] == "logits"
    pixels = cut(photographs[0][1])
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": pixels.reshape(-1).tolist()}
    asked = {"inputs": [tensor], "outputs": [{"name": "embedding"}]}
    answer = client.post("/v2/models/flat/infer", json=asked)
    assert answer.status_code == 400
    assert "has no embedding, only logits, probabilities" in answer.json()["error"]


def test_command_lists_missing_outputs(labels: Path, tmp_path: Path) -> None:
    onnx.save(classifier("flat"), tmp_path / "flat.onnx")
    arguments = [
        "import",
        f"{tmp_path}/flat.onnx",
        "--onnx",
        "--repository",
        f"{tmp_path}/repository",
        "--name",
        "flat",
    ]
    done = CliRunner().invoke(app, [*arguments, "--labels", str(labels), "--resize", "0"])
    assert done.exit_code == 0, done.output
    assert "left out, because the graph does not have it: embedding, feature_map" in done.output
    assert "left out: class activation maps" in done.output
    written = manifest.read(tmp_path / "repository" / "flat" / "1")
    assert written.outputs == ("logits", "probabilities")
    assert written.preprocess.resize is None
    assert written.classifier_sha256 is None


def changed(change: str) -> onnx.ModelProto:
    model = classifier("pool")
    given = model.graph.input[0].type.tensor_type
    if change == "strings":
        given.elem_type = TensorProto.STRING
    elif change == "five channels":
        given.shape.dim[1].dim_value = 5
    elif change == "two inputs":
        model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    elif change == "two outputs":
        model.graph.output.append(helper.make_tensor_value_info("t3", TensorProto.FLOAT, ["batch", 8, 8, 8]))
    elif change == "old":
        model.opset_import[0].version = 6
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("strings", "not images as numbers"),
        ("five channels", "not images of 1 or 3 channels"),
        ("two inputs", r"takes 2 inputs \(x, z\), not one"),
        ("two outputs", r"several outputs \(y, t3\)"),
        ("old", "has opset 6"),
    ],
)
def test_unsupported_graphs_are_refused(change: str, message: str, labels: Path, tmp_path: Path) -> None:
    onnx.save(changed(change), tmp_path / "model.onnx")
    with pytest.raises(ForeignWeights, match=message):
        import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", OnnxOptions(labels, WISHES))
    assert not (tmp_path / "repository").exists()


def test_file_that_is_no_onnx_is_refused(labels: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    (tmp_path / "model.onnx").write_bytes(buffer.getvalue())
    with pytest.raises(ForeignWeights, match=r"model\.onnx: is no ONNX model: [^\n]+$"):
        import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", OnnxOptions(labels, WISHES))


def test_labels_must_be_as_many_as_classes(labels: Path, tmp_path: Path) -> None:
    onnx.save(classifier("pool", 7), tmp_path / "model.onnx")
    for file, message in ((labels, "7 classes, but there are 5 labels"), (None, "classes without names")):
        with pytest.raises(ForeignWeights, match=message):
            import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", OnnxOptions(file, WISHES))


def test_operators_of_one_runtime_are_refused(labels: Path, tmp_path: Path) -> None:
    model = classifier("pool")
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BuildError, match=r"only one runtime knows: com\.microsoft\.Gelu"):
        import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", OnnxOptions(labels, WISHES))


def graph(nodes: list[onnx.NodeProto], weights: dict[str, Any], output: tuple[int | str, ...]) -> onnx.ModelProto:
    """From `x`, float32 [n, 3, 32, 32], to `y`."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    tensors = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    made = helper.make_graph(nodes, "graph", [given], [gives], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_classifier_without_convolutions_and_matrix_products_is_imported(labels: Path, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Einsum", ["f", "w"], ["y"], equation="ij,jk->ik"),
    ]
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    onnx.save(graph(nodes, {"w": weights}, ("n", 5)), tmp_path / "model.onnx")
    made = import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", OnnxOptions(labels, WISHES))
    assert manifest.read(made.version).architecture.multiply_adds is None


def test_multiply_adds_of_whole_numbers_are_counted() -> None:
    """A 3x3 convolution to 8 channels of 32 x 32, and a product of its 8,192 values with 5 classes."""
    scale, zero = ["s", "z"], np.uint8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *scale], ["q"]),
        helper.make_node("QLinearConv", ["q", *scale, "w", *scale, *scale], ["c"], pads=[1] * 4),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("QLinearMatMul", ["f", *scale, "v", *scale, *scale], ["l"]),
        helper.make_node("DequantizeLinear", ["l", *scale], ["y"]),
    ]
    weights = {
        "s": np.float32(0.1), "z": zero, "w": np.ones((8, 3, 3, 3), np.uint8), "v": np.ones((8192, 5), np.uint8),
    }  # fmt: skip
    model = graph(nodes, {name: np.asarray(value) for name, value in weights.items()}, ("n", 5))
    assert count_multiply_adds(model) == 8 * 32 * 32 * 27 + 8192 * 5


def test_reason_of_an_invalid_field_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        Architecture(name="onnx", num_classes=0)
    assert first_line(caught.value) == "num_classes: Input should be greater than 0"
    assert first_line(ValueError("\nreason\nmore")) == "reason"
