"""Routes of other platforms: recorded requests, limits, keys, health checks and errors."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from service.core.settings import Settings
from service.http.compat import predict, torchserve
from service.inference.results import Classification, ImageResult, Prediction, Timing
from tests.support.api_keys import KEYS, WEB, write_keys
from tests.support.exchanges import PLATFORMS, Expected, difference, read, request_of
from tests.support.service import Client, serve
from tests.support.tiny import Eager, Photographs, cut

ALL = ",".join(PLATFORMS)
PREDICT = "/v1/models/tiny:predict"
VERTEX = read("vertex")[0]["AIP_PREDICT_ROUTE"]
HEALTH = read("vertex")[0]["AIP_HEALTH_ROUTE"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in read("vertex")[0].items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def client(tiny_repository: Path) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in read("vertex")[0].items():
            patch.setenv(name, value)
        with serve(Settings(repository=tiny_repository, compat=ALL, max_images=4)) as client:
            yield client


@pytest.fixture
def expected(photographs: Photographs, eager: Eager) -> Expected:
    _, content = photographs[0]
    probabilities = eager(content)
    order = (-probabilities).argsort()[:10].tolist()
    classes = [(f"class {index}", index, float(probabilities[index])) for index in order]
    return Expected("tiny", content, cut(content).tolist(), classes)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_recorded_exchanges(
    platform: str, large: bool, client: Client, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # then written in a thread
        monkeypatch.setattr(predict, "_MAX_ON_EVENT_LOOP", 0)
    for exchange in read(platform)[1]:
        method, path, options = request_of(exchange, expected)
        found = difference(exchange, client.request(method, path, **options), expected)
        assert not found, exchange["document"]


def test_the_routes_are_off_by_default(tiny_repository: Path, expected: Expected) -> None:
    with serve(Settings(repository=tiny_repository)) as client:
        for platform in PLATFORMS:
            for exchange in read(platform)[1]:
                method, path, options = request_of(exchange, expected)
                assert client.request(method, path, **options).status_code in (404, 405), exchange
        assert ":predict" not in client.get("/openapi.json").text


def test_the_document_has_the_routes(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/v1/models/{model}:predict",
        "/invocations",
        "/ping",
        "/predictions/{model}",
        "/predictions/{model}/{version}",
        "/v1/endpoints/123/deployedModels/456",
        "/v1/endpoints/123/deployedModels/456:predict",
    } <= paths.keys()
    names = {each["name"] for each in paths["/v1/models/{model}:predict"]["post"]["parameters"]}
    assert names == {"model", "top_k", "timeout_ms", "priority"}


def instances(*contents: bytes) -> dict[str, Any]:
    return {"json": {"instances": [{"b64": base64.b64encode(content).decode()} for content in contents]}}


def test_options(client: Client, expected: Expected) -> None:
    response = client.post(f"{PREDICT}?top_k=2&priority=bulk", **instances(expected.file))
    assert len(response.json()["predictions"][0]["labels"]) == 2
    attributes = {"X-Amzn-SageMaker-Custom-Attributes": "top_k=2&trace=7", "Content-Type": "image/jpeg"}
    response = client.post("/invocations", content=expected.file, headers=attributes)
    assert len(response.json()["results"][0]["predictions"]) == 2
    middle = expected.classes[1][2]
    options = {"parameters": {"confidenceThreshold": middle - 1e-3, "timeout_ms": 5000, "priority": "bulk"}}
    response = client.post(VERTEX, json=instances(expected.file)["json"] | options)
    assert response.json()["predictions"][0]["displayNames"][:2] == [label for label, _, _ in expected.classes[:2]]
    assert all(value >= middle - 1e-3 for value in response.json()["predictions"][0]["confidences"])


@pytest.mark.parametrize(
    ("path", "arguments", "status", "message"),
    [
        (PREDICT, instances(b"text"), 422, "not an image"),
        (PREDICT, instances(b"text", b"text"), 422, "^instance 0: .*not an image"),
        (PREDICT, instances(*[b"text"] * 5), 413, "at most 4"),
        (PREDICT, {"json": {"instances": [[[1, 2], [3, 4]]]}}, 400, r"needs pixels \[32, 32, 3\]"),
        (PREDICT, {"json": {"instances": [[[[0.5] * 3] * 32] * 32]}}, 400, "whole numbers from 0 to 255"),
        (PREDICT, {"json": {"instances": [[1], {"b64": ""}]}}, 400, "some are pixels"),
        (PREDICT, {"json": {"instances": [{"b64": "https://example.org/cat.jpg"}]}}, 400, "URLs are never fetched"),
        (PREDICT, {"json": {"instances": [{"b64": "?"}]}}, 400, r"instances.0: not base64"),
        (PREDICT, {"json": {"inputs": []}}, 400, "instances: Field required"),
        (PREDICT, {"content": b"{"}, 400, "JSON"),
        (f"{PREDICT}?topk=1", instances(b""), 400, "did you mean 'top_k'"),
        ("/v1/models/a:b:predict", instances(b""), 400, "model: String should match"),
        (
            "/v1/endpoints/123/deployedModels/456:predict",
            {"json": {"instances": [1], "parameters": {"k": 1}}},
            400,
            "k",
        ),
    ],
)
def test_errors_in_the_form_of_kserve(
    path: str, arguments: dict[str, Any], status: int, message: str, client: Client
) -> None:
    response = client.post(path, **arguments)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    with pytest.raises(ValueError, match=message):
        raise ValueError(response.json()["error"])


@pytest.mark.parametrize(
    ("arguments", "status", "kind"),
    [
        ({"content": b"text"}, 422, "BadRequestException"),
        ({"files": [("data", ("a", b"")), ("data", ("b", b""))]}, 400, "BadRequestException"),
        ({"content": b"x" * 2048}, 413, "BadRequestException"),
    ],
)
def test_errors_in_the_form_of_torchserve(
    arguments: dict[str, Any], status: int, kind: str, tiny_repository: Path
) -> None:
    with serve(Settings(repository=tiny_repository, compat="torchserve", max_body_bytes=1024)) as client:
        response = client.post("/predictions/tiny", **arguments)
        assert (response.status_code, response.json()["code"], response.json()["type"]) == (status, status, kind)
        assert client.get("/predictions/tiny").json()["type"] == "MethodNotAllowedException"


def test_equal_labels_are_kept_apart() -> None:
    """ImageNet has two classes `crane`: a bird and a machine."""
    predictions = [Prediction(label="crane", index=134, probability=0.5)]
    predictions += [Prediction(label="crane", index=517, probability=0.25)]
    timing = Timing(decode_ms=0, queue_ms=0, inference_ms=0, batch_size=1, total_ms=0)
    answer = Classification(model="m", version="1", results=[ImageResult(predictions=predictions)], timing=timing)
    assert json.loads(torchserve._write(answer)) == {"crane": 0.5, "crane (517)": 0.25}


def test_errors_of_single_images_on_sagemaker(client: Client, expected: Expected) -> None:
    images = [{"base64": base64.b64encode(content).decode()} for content in (expected.file, b"text")]
    response = client.post("/invocations", json={"images": images})
    good, bad = response.json()["results"]
    assert good["predictions"][0]["label"] == expected.classes[0][0]
    assert bad["error"]["status"] == 422
    response = client.post("/invocations", json={"images": images}, headers={"Accept": "application/jsonlines"})
    assert [next(iter(json.loads(line))) for line in response.text.splitlines()] == ["predictions", "error"]
    for wrong in ({}, {"images": images, "instances": images}):
        assert client.post("/invocations", json=wrong).json()["title"] == "Malformed request"


def test_health_checks_wait_for_the_models(tiny_repository: Path) -> None:
    hold = Event()
    with serve(Settings(repository=tiny_repository, compat="sagemaker,vertex"), hold) as client:
        assert (client.get("/ping").status_code, client.get(HEALTH).status_code) == (503, 503)
        hold.set()
        assert client.loaded.wait(60)
        assert (client.get("/ping").status_code, client.get(HEALTH).status_code) == (200, 200)
    with serve(Settings(repository=tiny_repository / "none", compat="torchserve")) as client:
        response = client.get("/ping")
        assert (response.status_code, response.json()) == (500, {"status": "Unhealthy"})


def test_keys_and_rates_apply_to_all_but_health_checks(
    tiny_repository: Path, tmp_path: Path, expected: Expected
) -> None:
    write_keys(tmp_path / "keys.toml", KEYS)
    settings = Settings(
        repository=tiny_repository, compat=ALL, api_keys=tmp_path / "keys.toml", rate_limit=0.001, rate_burst=1
    )
    with serve(settings) as client:
        for _ in range(3):
            assert client.get("/ping").status_code == 200
            assert client.get(HEALTH).status_code == 200
        for path in (PREDICT, "/invocations", "/predictions/tiny", VERTEX):
            assert client.post(path, **instances(expected.file)).status_code == 401
        key = {"Authorization": f"Bearer {WEB}"}
        assert client.post(PREDICT, **instances(expected.file), headers=key).status_code == 200
        refused = client.post(PREDICT, **instances(expected.file), headers=key)
        assert (refused.status_code, list(refused.json())) == (429, ["error"])
        assert refused.headers["Retry-After"]


def test_a_time_limit_that_passes(client: Client, expected: Expected) -> None:
    response = client.post(f"{PREDICT}?timeout_ms=0.001", **instances(expected.file))
    assert response.status_code in (503, 504)
    assert list(response.json()) == ["error"]
