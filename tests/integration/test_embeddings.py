"""`/v1/embeddings` by the `openai` package, and the pooled features of each stage."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from torch.nn import functional as F

from export.build import build
from models.artifact import manifest
from models.artifact.manifest import OUTPUTS, Precision
from models.artifact.parity import Float32Array
from models.training import checkpoint
from models.training.evaluate import normalise
from service import executors
from service.core.settings import Settings
from service.executors.base import compute
from tests.support import fake_gpu
from tests.support.api import as_form, as_json, check_problem
from tests.support.api_keys import KEYS, WEB, write_keys
from tests.support.networks import make_checkpoint
from tests.support.service import Client, serve
from tests.support.tiny import Photographs, cut, source_of

pytestmark = pytest.mark.slow

RUNTIMES: list[tuple[str, Precision, float]] = [
    ("onnxruntime-cpu", "float32", 1e-5),
    ("openvino", "float32", 1e-5),
    ("onnxruntime-cuda", "float16", 1e-2),
    ("onnxruntime-cpu", "int8", 0.1),
    ("openvino", "int8", 0.1),
]
"""Executor, on a fake GPU if it needs one, precision, and largest error relative to the largest value."""


@pytest.fixture(scope="module")
def layered(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with `tiny`, whose graphs have the pooled features of both stages."""
    repository = tmp_path_factory.mktemp("layers") / "repository"
    build(checkpoint_file, repository, "tiny", float16=True, int8=True, layers=True)
    return repository


@pytest.fixture(scope="module")
def client(layered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    write_keys(path, KEYS)
    with serve(Settings(repository=layered, api_keys=path, max_images=8)) as client:
        client.http.headers["authorization"] = f"Bearer {WEB}"
        yield client


def pooled_stages(trained: checkpoint.Checkpoint, images: np.ndarray[Any, Any]) -> list[Float32Array]:
    """Pooled output of each stage of the eager network, for images, uint8 [n, H, W, C]."""
    model, found = trained.model().eval(), list[Float32Array]()
    for stage in model.stages:
        stage.register_forward_hook(
            lambda _, __, output: found.append(F.adaptive_avg_pool2d(output, 1).flatten(1).numpy())
        )
    with torch.no_grad():
        model(normalise(torch.from_numpy(images).permute(0, 3, 1, 2), trained.preprocess))
    return found


def embed(client: Client, files: list[bytes], key: str = WEB, **options: Any) -> Any:
    """The answer of the `openai` package."""
    texts = [f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in files]
    http: Any = client.http
    api = openai.AsyncOpenAI(base_url="http://service/v1", api_key=key, http_client=http, max_retries=0)

    async def create() -> Any:
        return await api.embeddings.create(**{"model": "tiny", "input": texts, **options})

    return client.portal.call(create)


def classified(client: Client, files: list[bytes], more: str = "") -> Float32Array:
    response = client.post(f"/v1/classify?embedding=true{more}", **as_form(*files))
    return np.array([result["embedding"] for result in response.json()["results"]], np.float32)


@pytest.mark.parametrize(("name", "precision", "tolerance"), RUNTIMES)
def test_layers_are_those_of_pytorch(
    name: str,
    precision: Precision,
    tolerance: float,
    layered: Path,
    checkpoint_file: Path,
    photographs: Photographs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_gpu.install(monkeypatch)
    version = layered / "tiny" / "1"
    assert manifest.read(version).outputs == (*OUTPUTS, "layer1", "layer2")
    images = np.stack([cut(data) for _, data in photographs])
    expected = pooled_stages(checkpoint.load(checkpoint_file), images)
    (executor,) = executors.find(name).load(source_of(version, executors.find(name), precision))
    try:
        found = compute(executor, images, frozenset({"layer1", "layer2", "logits"}))
    finally:
        executor.close()
    for index, stage in enumerate(expected, start=1):
        np.testing.assert_allclose(found[f"layer{index}"], stage, rtol=0, atol=tolerance * np.abs(stage).max())


def test_preactivation_network_has_its_stages(tmp_path: Path) -> None:
    """Three stages, whose outputs are sums before a normalisation; the last one is not the embedding."""
    trained = make_checkpoint("preact-resnet20", classes=3)
    trained.save(tmp_path / "checkpoint.safetensors")
    version = build(tmp_path / "checkpoint.safetensors", tmp_path / "repository", "preact", layers=True)
    images = np.random.default_rng(0).integers(0, 256, (4, *trained.preprocess.shape), np.uint8)
    (executor,) = (runtime := executors.find("onnxruntime-cpu")).load(source_of(version, runtime))
    found = compute(executor, images, frozenset({"layer1", "layer2", "layer3", "embedding"}))
    for index, stage in enumerate(pooled_stages(trained, images), start=1):
        np.testing.assert_allclose(found[f"layer{index}"], stage, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found["layer3"], found["embedding"])
    assert all(report.fused == report.residual_adds for report in manifest.read(version).artifacts[0].fusion.values())


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_openai_gets_the_embeddings_of_classify(
    options: dict[str, Any], client: Client, photographs: Photographs
) -> None:
    files = [data for _, data in photographs[:3]]
    answer = embed(client, files, **options)
    np.testing.assert_array_equal(
        np.array([item.embedding for item in answer.data], np.float32), classified(client, files)
    )
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model, answer.usage.total_tokens) == ("list", "tiny/versions/1", 3)
    of_layer = embed(client, files, model="tiny/versions/1", extra_body={"layer": 1}, **options)
    found = np.array([item.embedding for item in of_layer.data], np.float32)
    np.testing.assert_array_equal(found, classified(client, files, "&layer=1"))


def test_embeddings_are_shortened_and_normalised(client: Client, photographs: Photographs) -> None:
    files = [photographs[0][1]]
    (whole,) = classified(client, files).astype(np.float64)

    def found(**options: Any) -> Float32Array:
        return np.array(embed(client, files, **options).data[0].embedding)

    np.testing.assert_allclose(found(dimensions=5), whole[:5] / np.linalg.norm(whole[:5]), rtol=1e-6)
    np.testing.assert_allclose(found(extra_body={"normalize": True}), whole / np.linalg.norm(whole), rtol=1e-6)
    np.testing.assert_array_equal(found(dimensions=5, extra_body={"normalize": False}), whole[:5])


def test_many_large_embeddings_are_written_in_slices(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [data for _, data in photographs]
    whole = embed(client, files)
    monkeypatch.setattr("service.http.v1.embeddings._SMALL_VALUES", 0)
    assert embed(client, files).data == whole.data


FAULTS: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str]] = {
    "a URL": ({"input": "https://example.com/cat.jpg"}, openai.BadRequestError, "input.0: URLs are never fetched"),
    "another URL": ({"input": ["file:///etc/passwd"]}, openai.BadRequestError, "URLs are never fetched: send"),
    "a data URL of text": ({"input": "data:text/plain,cat"}, openai.BadRequestError, "not in base64"),
    "words": ({"input": "a picture of a cat"}, openai.BadRequestError, "input.0: not base64"),
    "tokens": ({"input": [[1, 2]]}, openai.BadRequestError, "input.0: Input should be a valid string"),
    "nothing": ({"input": []}, openai.BadRequestError, "input: List should have at least 1"),
    "no image": ({"input": "aGk="}, openai.UnprocessableEntityError, "input.0: this is not an image"),
    "too many": ({"input": ["aGk="] * 9}, openai.APIStatusError, "9 images in one request, at most 8"),
    "too many values": ({"dimensions": 17}, openai.BadRequestError, "dimensions: the embedding has 16"),
    "no values": ({"dimensions": 0}, openai.BadRequestError, "dimensions: "),
    "no such layer": ({"extra_body": {"layer": 3}}, openai.BadRequestError, "no layer3: it has layer1, layer2"),
    "an unknown field": ({"extra_body": {"layers": 1}}, openai.BadRequestError, "layers: Extra inputs"),
    "no time": ({"extra_body": {"timeout_ms": 1e-3}}, openai.InternalServerError, "time limit passed"),
    "no such model": ({"model": "clip"}, openai.NotFoundError, "no model clip is served; there is: tiny version 1"),
    "no such version": ({"model": "tiny/versions/9"}, openai.NotFoundError, "no model tiny version 9"),
    "no model's name": ({"model": "tiny/versions/"}, openai.BadRequestError, "version: String should match"),
    "another key": ({"key": "none"}, openai.AuthenticationError, "no such API key"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_openai_reads_errors(fault: str, client: Client, photographs: Photographs) -> None:
    options, kind, message = FAULTS[fault]
    with pytest.raises(kind) as caught:
        embed(client, [photographs[0][1]], **options)
    assert message in caught.value.body["message"]  # type: ignore[index]
    assert caught.value.type == ("server_error" if caught.value.status_code >= 500 else "invalid_request_error")
    codes = {401: "invalid_api_key", 404: "model_not_found"}
    assert caught.value.code == codes.get(caught.value.status_code)


def test_openai_waits_as_long_as_the_service_says(client: Client, photographs: Photographs) -> None:
    """The package retries after the seconds in Retry-After."""
    with (
        client.admit(client.pipeline.settings.max_in_flight_images),
        pytest.raises(openai.InternalServerError) as caught,
    ):
        embed(client, [photographs[0][1]])
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_classify_takes_data_urls_and_no_others(client: Client, photographs: Photographs) -> None:
    data = photographs[0][1]
    text = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    answers = [
        client.post("/v1/classify", **body).json() for body in ({"json": {"images": [{"base64": text}]}}, as_json(data))
    ]
    assert answers[0]["results"] == answers[1]["results"]
    for image in ({"base64": "http://example.com/cat.jpg"}, {"url": "http://example.com/cat.jpg"}, "s3://bucket/cat"):
        check_problem(client.post("/v1/classify", json={"images": [image]}), 400, "URLs are never fetched")


def test_layer_selects_an_embedding(client: Client, photographs: Photographs) -> None:
    data = photographs[0][1]
    check_problem(client.post("/v1/classify?layer=1", content=data), 400, "add embedding=true")
    check_problem(client.post("/v1/classify?embedding=true&layer=9", content=data), 400, "it has layer1, layer2")
    pixels = {"name": "images", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": cut(data).ravel().tolist()}
    answers = [
        client.post("/v2/models/tiny/infer", json={"inputs": [pixels], "outputs": [{"name": name}]}).json()
        for name in ("layer1", "layer3")
    ]
    (expected,) = classified(client, [data], "&layer=1")
    np.testing.assert_allclose(answers[0]["outputs"][0]["data"], expected, rtol=1e-5)
    assert "no layer3" in answers[1]["error"]
    assert client.get("/v1/models/tiny").json()["outputs"][-2:] == ["layer1", "layer2"]


def test_version_without_layers_says_how_to_add_them(tiny_repository: Path, photographs: Photographs) -> None:
    with serve(Settings(repository=tiny_repository)) as plain:
        answer = plain.post("/v1/classify?embedding=true&layer=1", content=photographs[0][1])
    check_problem(answer, 400, "resnet-export build --layers")
