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
from typer.testing import CliRunner

from export.__main__ import app
from export.errors import BuildError, ForeignWeights
from export.verify import verify_version
from export.wrapping import import_onnx
from models.artifact import manifest
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.runtime.onnxruntime import ort
from service.core.settings import Settings
from tests.support.service import Client, serve
from tests.support.tiny import cut

CLASSES = 5
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
WISHES: dict[str, Any] = {"size": (32, 32), "resize": 36}

ENDS = ("pool", "mean", "mean18", "matmul", "softmax", "channels last", "fixed batch", "flat")


def classifier(end: str, classes: int = CLASSES) -> onnx.ModelProto:
    """Two convolutions and a head, written in one of the ways that are met; takes `x`, gives `y`."""
    rng = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(*shape: int, scale: float = 1.0) -> str:
        values = (rng.standard_normal(shape) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{len(weights)}"))
        return weights[-1].name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"t{len(nodes)}"], f"n{len(nodes)}", **attributes))
        return str(nodes[-1].output[0])

    x = node("Transpose", "x", perm=[0, 3, 1, 2]) if end == "channels last" else "x"
    for inputs in (3, 8):
        conv = node("Conv", x, weight(8, inputs, 3, 3, scale=0.3), weight(8, scale=0.1), strides=[2, 2], pads=[1] * 4)
        x = node("Relu", conv)
    if end == "flat":
        x = node("Flatten", x)
    elif end == "mean":
        x = node("ReduceMean", x, axes=[2, 3], keepdims=0)
    elif end == "mean18":
        weights.append(numpy_helper.from_array(np.array([-1, -2]), "axes"))
        x = node("ReduceMean", x, "axes", keepdims=0)
    else:
        x = node("Flatten", node("GlobalAveragePool", x))
    features = 8 * 64 if end == "flat" else 8
    if end == "matmul":
        x = node("Add", node("MatMul", x, weight(features, classes)), weight(classes))
    else:
        x = node("Gemm", x, weight(classes, features), weight(classes), transB=1)
    if end == "softmax":
        x = node("Softmax", x, axis=1)
    nodes[-1].output[0] = "y"
    batch: str | int = 1 if end == "fixed batch" else "batch"
    shape = [batch, 32, 32, 3] if end == "channels last" else [batch, 3, 32, 32]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        weights,
    )
    opset = 18 if end == "mean18" else 13
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


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
        import_onnx(folder / f"{end}.onnx", folder / "repository", end.replace(" ", "-"), labels, WISHES)
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
    (row,) = session.run(["y"], {"x": given[None].astype(np.float32)})[0]
    if end == "softmax":
        return np.asarray(row, np.float32)
    exponentials = np.exp(row - row.max())
    probabilities: Float32Array = exponentials / exponentials.sum()
    return probabilities


@pytest.mark.parametrize("end", ENDS)
def test_service_answers_like_the_original_file(end: str, client: Client, photographs: list[tuple[str, bytes]]) -> None:
    files = [("image", (name, data, "image/jpeg")) for name, data in photographs]
    answer = client.post(f"/v1/models/{end.replace(' ', '-')}/classify?top_k={CLASSES}", files=files).json()
    for (_, data), result in zip(photographs, answer["results"], strict=True):
        found = {item["index"]: item["probability"] for item in result["predictions"]}
        expected = reference(end, cut(data))
        np.testing.assert_allclose([found[index] for index in range(CLASSES)], expected, atol=1e-5)


@pytest.mark.parametrize("end", ENDS)
def test_multiply_adds_are_counted(end: str, repository: Path) -> None:
    convolutions = 8 * 16 * 16 * 3 * 3 * 3 + 8 * 8 * 8 * 8 * 3 * 3
    head = CLASSES * (8 * 64 if end == "flat" else 8)
    described = manifest.read(repository / end.replace(" ", "-") / "1")
    assert described.architecture.multiply_adds == convolutions + head


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
    bias = numpy_helper.to_array(classifier(end).graph.initializer[-1])
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
    if change == "integers":
        given.elem_type = TensorProto.UINT8
        model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT))
        model.graph.node[1].input[0] = "f"
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
        ("integers", "not normalised images in float32"),
        ("five channels", "not images of 1 or 3 channels"),
        ("two inputs", r"takes 2 inputs \(x, z\), not one"),
        ("two outputs", r"several outputs \(y, t3\)"),
        ("old", "has opset 6"),
    ],
)
def test_unsupported_graphs_are_refused(change: str, message: str, labels: Path, tmp_path: Path) -> None:
    onnx.save(changed(change), tmp_path / "model.onnx")
    with pytest.raises(ForeignWeights, match=message):
        import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", labels, WISHES)
    assert not (tmp_path / "repository").exists()


def test_file_that_is_no_onnx_is_refused(labels: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    (tmp_path / "model.onnx").write_bytes(buffer.getvalue())
    with pytest.raises(ForeignWeights, match=r"model\.onnx: is no ONNX model: [^\n]+$"):
        import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", labels, WISHES)


def test_labels_must_be_as_many_as_classes(labels: Path, tmp_path: Path) -> None:
    onnx.save(classifier("pool", 7), tmp_path / "model.onnx")
    for file, message in ((labels, "7 classes, but there are 5 labels"), (None, "classes without names")):
        with pytest.raises(ForeignWeights, match=message):
            import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", file, WISHES)


def test_operators_of_one_runtime_are_refused(labels: Path, tmp_path: Path) -> None:
    model = classifier("pool")
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BuildError, match=r"only one runtime knows: com\.microsoft\.Gelu"):
        import_onnx(tmp_path / "model.onnx", tmp_path / "repository", "model", labels, WISHES)
