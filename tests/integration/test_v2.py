"""The Open Inference Protocol: tritonclient with a real server, and invalid requests."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from models.artifact.parity import Float32Array
from service.core.settings import Settings
from service.http.v2 import responses
from service.open_inference import outputs
from tests.support.process import running
from tests.support.service import Client, serve
from tests.support.tiny import Eager, cut

Photographs = list[tuple[str, bytes]]
PIXELS = "/v2/models/tiny/infer"
FILES = "/v2/models/tiny-encoded/infer"


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[triton.InferenceServerClient]:
    """tritonclient, connected to a server process."""
    with running("--repository", tiny_repository) as server:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8)
        yield client
        client.close()


def pixels_input(images: np.ndarray[Any, Any], binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def files_input(files: list[bytes], shape: list[int]) -> triton.InferInput:
    tensor = triton.InferInput("image", shape, "BYTES")
    tensor.set_data_from_numpy(np.array(files, np.object_).reshape(shape))
    return tensor


def test_tritonclient_reads_the_server_metadata(server: triton.InferenceServerClient) -> None:
    assert server.is_server_live()
    assert server.is_server_ready()
    told = server.get_server_metadata()
    assert told["name"] == "resnet-serve"
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(told["extensions"])
    index = server.get_model_repository_index()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
        ("tiny", "1", "READY"),
        ("tiny-encoded", "1", "READY"),
    ]


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize(
    ("name", "tensor", "datatype", "shape"),
    [("tiny", "images", "UINT8", [32, 32, 3]), ("tiny-encoded", "image", "BYTES", [1])],
)
def test_tritonclient_reads_the_model_metadata(
    name: str, tensor: str, datatype: str, shape: list[int], version: str, server: triton.InferenceServerClient
) -> None:
    assert server.is_model_ready(name, version)
    told = server.get_model_metadata(name, version)
    assert told["name"] == name
    assert told["versions"] == ["1"]
    assert told["inputs"] == [{"name": tensor, "datatype": datatype, "shape": [-1, *shape]}]
    assert told["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 5]}]
    config = server.get_model_config(name, version)
    assert config["max_batch_size"] == 128
    assert config["input"][0]["dims"] == shape
    assert config["output"] == [{"name": "probabilities", "data_type": "TYPE_FP32", "dims": [5]}]
    assert "dynamic_batching" in config
    (counted,) = server.get_inference_statistics(name, version)["model_stats"]
    assert (counted["name"], counted["version"]) == (name, "1")


def test_missing_models_and_versions(server: triton.InferenceServerClient) -> None:
    assert not server.is_model_ready("resnet")
    assert not server.is_model_ready("tiny", "2")
    with pytest.raises(InferenceServerException, match="no model resnet is served") as error:
        server.get_model_metadata("resnet")
    assert error.value.status() == "404"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_pixels(
    binary: bool,
    compression: str | None,
    server: triton.InferenceServerClient,
    photographs: Photographs,
    eager: Eager,
) -> None:
    images = np.stack([cut(data) for _, data in photographs])
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "logits")]
    answer = server.infer(
        "tiny",
        [pixels_input(images, binary)],
        outputs=outputs,
        request_id="7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    expected = np.stack([eager(data) for _, data in photographs])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, atol=1e-5)
    logits = answer.as_numpy("logits")
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(exponentials / exponentials.sum(1, keepdims=True), expected, atol=1e-5)
    head = answer.get_response()
    assert (head["id"], head["model_name"], head["model_version"]) == ("7", "tiny", "1")


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("column", [True, False])
def test_files(
    column: bool,
    compression: str | None,
    server: triton.InferenceServerClient,
    photographs: Photographs,
    eager: Eager,
) -> None:
    files = [data for _, data in photographs]
    shape = [len(files), 1] if column else [len(files)]
    answer = server.infer("tiny-encoded", [files_input(files, shape)], request_compression_algorithm=compression)
    expected = np.stack([eager(data) for data in files])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, atol=1e-5)
    assert answer.get_response()["model_name"] == "tiny-encoded"


def test_asynchronous_tritonclient(server: triton.InferenceServerClient, photographs: Photographs) -> None:
    files = [data for _, data in photographs]
    waiting = [
        server.async_infer("tiny-encoded", [files_input([data], [1])], model_version="1", timeout=60_000_000)
        for data in files
    ]
    apart = np.concatenate([answer.get_result().as_numpy("probabilities") for answer in waiting])
    together = server.infer("tiny-encoded", [files_input(files, [len(files)])]).as_numpy("probabilities")
    np.testing.assert_allclose(apart, together, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(
    binary: bool, server: triton.InferenceServerClient, photographs: Photographs, eager: Eager
) -> None:
    files = [data for _, data in photographs]
    output = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
    rows = server.infer("tiny-encoded", [files_input(files, [len(files)])], outputs=[output]).as_numpy("probabilities")
    assert rows.shape == (len(files), 3)
    for data, row in zip(files, rows, strict=True):
        expected = eager(data)
        for rank, text in enumerate(row):
            value, index, label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert label == f"class {index}"
            assert float(value) == pytest.approx(expected[int(index)], abs=2e-5)
            assert float(value) == pytest.approx(np.sort(expected)[-1 - rank], abs=2e-5)


def test_outputs_equal_those_of_v1(client: Client, photographs: Photographs) -> None:
    for _, data in photographs:
        predictions = client.post("/v1/classify", content=data).json()["results"][0]["predictions"]
        by_class = {prediction["index"]: np.float32(prediction["probability"]) for prediction in predictions}
        expected = np.array([by_class[index] for index in range(5)], np.float32)
        raw = client.post(FILES, content=data, headers={"inference-header-content-length": "0"}).json()
        assert np.array_equal(np.array(raw["outputs"][0]["data"], np.float32), expected)
        binary = binary_values(client.post(PIXELS, **binary_request(cut(data)[None])))
        assert np.array_equal(binary[0], expected)


def binary_request(images: np.ndarray[Any, Any], **changes: Any) -> dict[str, Any]:
    """A request in bytes: the JSON, its length, and the tensor."""
    raw = images.tobytes()
    head = {
        "inputs": [
            {
                "name": "images",
                "shape": list(images.shape),
                "datatype": "UINT8",
                "parameters": {"binary_data_size": len(raw)},
            }
        ],
        "parameters": {"binary_data_output": True},
        **changes,
    }
    text = json.dumps(head).encode()
    return {"content": text + raw, "headers": {"inference-header-content-length": str(len(text))}}


def binary_values(response: httpx.Response) -> Float32Array:
    """The only output, [N, ...], of a response in bytes."""
    assert response.status_code == 200, response.text
    length = int(response.headers["inference-header-content-length"])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(response.content) - length
    values: Float32Array = np.frombuffer(response.content[length:], "<f4").reshape(output["shape"])
    return values


def test_outputs_that_the_metadata_does_not_list(client: Client, photographs: Photographs) -> None:
    images = np.stack([cut(data) for _, data in photographs])
    values = {
        name: binary_values(client.post(PIXELS, **binary_request(images, outputs=[{"name": name}])))
        for name in ("embedding", "feature_map")
    }
    # The embedding is the average over positions of the feature map.
    np.testing.assert_allclose(values["embedding"], values["feature_map"].mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slice_values", [16384, 100])
def test_large_outputs_are_sent_in_slices(
    slice_values: int, client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "_MAX_VALUES", 100)
    monkeypatch.setattr(responses, "_MAX_BYTES", 1000)
    monkeypatch.setattr(responses, "_SLICE_BYTES", 999)
    monkeypatch.setattr(responses, "_SLICE_VALUES", slice_values)
    images = np.stack([cut(data) for _, data in photographs] * 10)
    names = ("feature_map", "embedding", "probabilities")
    apart = {
        name: binary_values(client.post(PIXELS, **binary_request(images, outputs=[{"name": name}]))) for name in names
    }
    for binary in ({"feature_map": False}, {"feature_map": True, "probabilities": True}):
        outputs = [{"name": name, "parameters": {"binary_data": binary.get(name, False)}} for name in names]
        response = client.post(PIXELS, **binary_request(images, outputs=outputs, id="7"))
        length = int(response.headers.get("inference-header-content-length", len(response.content)))
        head, raw = json.loads(response.content[:length]), response.content[length:]
        assert (head["id"], head["model_name"], head["model_version"]) == ("7", "tiny", "1")
        for output, name in zip(head["outputs"], names, strict=True):
            assert (output["name"], output["datatype"], output["shape"]) == (name, "FP32", [*apart[name].shape])
            if binary.get(name, False):
                size = output["parameters"]["binary_data_size"]
                values, raw = np.frombuffer(raw[:size], "<f4"), raw[size:]
            else:
                values = np.array(output["data"], np.float32)
            assert np.array_equal(values, apart[name].ravel())
        assert raw == b""


def test_many_classes_are_written_in_a_thread(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    request = binary_request(IMAGE, outputs=[{"name": "logits", "parameters": {"classification": 5}}])
    apart = client.post(PIXELS, **request).content
    monkeypatch.setattr(outputs, "_MAX_VALUES", 4)
    assert client.post(PIXELS, **request).content == apart


def test_statistics_count_images_batches_and_time(tiny_repository: Path, photographs: Photographs) -> None:
    with serve(Settings(repository=tiny_repository, max_batch=4, instances=1)) as client:
        assert client.post("/v1/classify", content=photographs[0][1]).status_code == 200
        assert client.post(PIXELS, **binary_request(np.zeros((6, 32, 32, 3), np.uint8))).status_code == 200
        (pixels,) = client.get("/v2/models/tiny/stats").json()["model_stats"]
        everything = client.get("/v2/models/stats").json()["model_stats"]
    assert [(counted["name"], counted["version"]) for counted in everything] == [("tiny", "1"), ("tiny-encoded", "1")]
    assert {**everything[1], "name": "tiny"} == everything[0] == pixels
    assert (pixels["inference_count"], pixels["execution_count"]) == (7, 3)
    assert [batch["batch_size"] for batch in pixels["batch_stats"]] == [1, 2, 4]
    spent = pixels["inference_stats"]
    assert spent["success"]["count"] == 2
    assert spent["fail"]["count"] == 0
    parts = sum(spent[part]["ns"] for part in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < parts <= spent["success"]["ns"]
    assert {"cache_hit", "cache_miss"} <= spent.keys()


IMAGE = np.zeros((1, 32, 32, 3), np.uint8)


def json_request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "images", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": IMAGE.tolist()}
    return {"json": {"inputs": [{**tensor, **changes}]}}


def files_request(raw: bytes, shape: list[int], size: int | None = None) -> dict[str, Any]:
    size = len(raw) if size is None else size
    tensor = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [tensor]}).encode()
    return {"content": text + raw, "headers": {"inference-header-content-length": str(len(text))}}


def with_headers(request: dict[str, Any], **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {**request, "headers": {**request.get("headers", {}), **named}}


def element(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def bomb() -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        for _ in range(65):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


LENGTH = "inference_header_content_length"
NESTED = b'{"inputs":' + b"[" * 10_000_000
MISTAKES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "nothing": (PIXELS, {}, 400, "JSON"),
    "no JSON": (PIXELS, {"content": b"cat"}, 400, "JSON"),
    "10 MB of nesting": (PIXELS, {"content": NESTED}, 413, "JSON is larger than the 1,048,576 bytes"),
    "200 kB of nesting": (PIXELS, {"content": NESTED[:200_000]}, 400, "JSON"),
    "no input": (PIXELS, {"json": {"inputs": []}}, 400, "inputs"),
    "two inputs": (PIXELS, {"json": {"inputs": json_request()["json"]["inputs"] * 2}}, 400, "inputs"),
    "another input": (PIXELS, json_request(name="input"), 400, "'images' of datatype UINT8, not 'input'"),
    "the input of the other face": (FILES, json_request(), 400, "'image' of datatype BYTES"),
    "another datatype": (PIXELS, json_request(datatype="FP32"), 400, "UINT8, not 'images' of FP32"),
    "another size": (PIXELS, json_request(shape=[1, 28, 28, 3]), 400, r"\[-1, 32, 32, 3\]"),
    "no batch": (PIXELS, json_request(shape=[32, 32, 3]), 400, r"\[-1, 32, 32, 3\]"),
    "an empty batch": (PIXELS, json_request(shape=[0, 32, 32, 3], data=[]), 400, "no image"),
    "a negative batch": (PIXELS, json_request(shape=[-1, 32, 32, 3]), 400, "shape"),
    "a huge batch": (PIXELS, json_request(shape=[10**15, 32, 32, 3]), 413, "images in one request"),
    "too few values": (PIXELS, json_request(data=[1, 2, 3]), 400, "3 values"),
    "ragged values": (PIXELS, json_request(data=[[0] * 1536, [0] * 1535]), 400, "length"),
    "fractions": (PIXELS, json_request(data=(IMAGE + 0.5).tolist()), 400, "whole numbers"),
    "values over 255": (PIXELS, json_request(data=(IMAGE.astype(int) + 256).tolist()), 400, "whole numbers"),
    "negative values": (PIXELS, json_request(data=(IMAGE.astype(int) - 1).tolist()), 400, "whole numbers"),
    "enormous values": (PIXELS, json_request(data=[2**100] * IMAGE.size), 400, "whole numbers"),
    "truth values": (PIXELS, json_request(data=[True] * IMAGE.size), 400, "whole numbers"),
    "lists in place of values": (PIXELS, json_request(data=[0] * (IMAGE.size - 1) + [[0]]), 400, "whole numbers"),
    "a value in place of a list": (PIXELS, json_request(data=[[0] * 1536, 0]), 400, "length"),
    "a long word among empty ones": (PIXELS, json_request(data=["a" * 300_000] + [""] * 3071), 400, "whole numbers"),
    "data that is no list": (PIXELS, json_request(data={"0": 1}), 400, "inputs.0.data: .*array"),
    "more elements than the shape": (FILES, files_request(bytes(4_000_000), [1]), 400, "not 1 elements"),
    "outputs that are numbers": (PIXELS, binary_request(IMAGE, outputs=[0] * 30_000), 400, "outputs.0"),
    "a thousand outputs": (PIXELS, binary_request(IMAGE, outputs=[{"name": "logits"}] * 1000), 400, "outputs: .*16"),
    "words": (PIXELS, json_request(data=["a"] * IMAGE.size), 400, "whole numbers"),
    "no values": (PIXELS, json_request(data=None), 400, "data, or binary_data_size"),
    "files in JSON": (FILES, json_request(name="image", shape=[1], datatype="BYTES", data=["x"]), 400, "cannot hold"),
    "shared memory": (PIXELS, json_request(parameters={"shared_memory_region": "a"}), 400, "shared memory"),
    "an output that is not there": (PIXELS, binary_request(IMAGE, outputs=[{"name": "x"}]), 400, "probabilities"),
    "an output twice": (PIXELS, binary_request(IMAGE, outputs=[{"name": "logits"}] * 2), 400, "twice"),
    "classes of an embedding": (
        PIXELS,
        binary_request(IMAGE, outputs=[{"name": "embedding", "parameters": {"classification": 1}}]),
        400,
        "no classes",
    ),
    "a length beyond the body": (PIXELS, with_headers(binary_request(IMAGE), **{LENGTH: "99999"}), 400, "99999"),
    "a length short of the JSON": (PIXELS, with_headers(binary_request(IMAGE), **{LENGTH: "20"}), 400, "JSON"),
    "a length that is none": (PIXELS, with_headers(binary_request(IMAGE), **{LENGTH: "-1"}), 400, "'-1'"),
    "a length in words": (PIXELS, with_headers(binary_request(IMAGE), **{LENGTH: "all"}), 400, "'all'"),
    "an enormous length": (PIXELS, with_headers(binary_request(IMAGE), **{LENGTH: "9" * 4000}), 400, "999"),
    "no length": (PIXELS, {"content": binary_request(IMAGE)["content"]}, 400, "JSON"),
    "a raw body for pixels": (PIXELS, with_headers({"content": IMAGE.tobytes()}, **{LENGTH: "0"}), 400, "one image"),
    "bytes that are missing": (PIXELS, {**binary_request(IMAGE), "content": binary_request(IMAGE)["content"][:-1]},
        400, "3071 bytes are behind"),
    "bytes that are too many": (PIXELS, {**binary_request(IMAGE), "content": binary_request(IMAGE)["content"] + b"0"},
        400, "3073 bytes are behind"),
    "too few bytes for the shape": (PIXELS, binary_request(IMAGE[:, :31]) | {}, 400, r"\[-1, 32, 32, 3\]"),
    "an element beyond the body": (FILES, files_request(struct.pack("<I", 2**32 - 1) + b"x", [1]), 400, "elements"),
    "an element that is cut": (FILES, files_request(element(b"x") + b"\1\0", [1]), 400, "elements"),
    "too few elements": (FILES, files_request(element(b"x"), [2]), 400, "not 2 elements"),
    "a grid of files": (FILES, files_request(element(b"x") * 4, [2, 2]), 400, r"\[-1, 1\]"),
    "too many files": (FILES, files_request(element(b"") * 129, [129]), 413, "at most 128"),
    "a text": (FILES, files_request(element(b"cat"), [1]), 422, "known format"),
    "a text among others": (FILES, files_request(element(b"cat") * 2, [2, 1]), 422, "image 0: .*known format"),
    "brotli": (PIXELS, with_headers(binary_request(IMAGE), content_encoding="br"), 415, "'br'"),
    "two encodings": (PIXELS, with_headers(binary_request(IMAGE), content_encoding="gzip, gzip"), 415, "gzip"),
    "gzip that is none": (PIXELS, with_headers(binary_request(IMAGE), content_encoding="gzip"), 400, "decompressing"),
    "gzip that is cut": (PIXELS, {"content": gzip.compress(b"{}" * 99)[:-9], "headers": {"content-encoding": "gzip"}},
        400, "incomplete"),
    "a bomb": (PIXELS, {"content": bomb(), "headers": {"content-encoding": "gzip"}}, 413, "decompressed"),
    "a bomb of zlib": (PIXELS, {"content": zlib.compress(bytes(65 << 20)), "headers": {"content-encoding": "deflate"}},
        413, "decompressed"),
    "top_k": (PIXELS + "?topk=3", binary_request(IMAGE), 400, "'topk': request .*classification"),
    "a time limit in the query": (PIXELS + "?timeout=3", binary_request(IMAGE), 400, "parameters.timeout"),
    "a query": (FILES + "?x=3", binary_request(IMAGE), 400, "no query parameters.*'x'"),
    "endless time": (PIXELS, binary_request(IMAGE, parameters={"timeout": 10**18}), 400, "timeout"),
    "a model that is not there": ("/v2/models/resnet/infer", binary_request(IMAGE), 404, "tiny version 1"),
    "a version that is not there": ("/v2/models/tiny/versions/2/infer", binary_request(IMAGE), 404, "tiny version 2"),
    "a version that is none": ("/v2/models/tiny/versions/x/infer", binary_request(IMAGE), 400, "version"),
    "a hidden model": ("/v2/models/.hidden/infer", binary_request(IMAGE), 400, "model"),
    "a path in disguise": ("/v2/models/..%2f..%2fetc/infer", binary_request(IMAGE), 404, "path"),
    "a path in a better disguise": ("/v2/models/%2e%2e/infer", binary_request(IMAGE), 400, "model"),
    "a path that is not there": ("/v2/nothing", {}, 404, "path"),
    "loading, where there are no admins": ("/v2/repository/models/tiny/load", {}, 404, "path"),
    "unloading, where there are no admins": ("/v2/repository/models/tiny/unload", {}, 404, "path"),
    "an index that is none": ("/v2/repository/index", {"content": b"[]"}, 400, "object"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "options", "status", "detail"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(
    path: str, options: dict[str, Any], status: int, detail: str, client: Client, photographs: Photographs
) -> None:
    response = client.post(path, **options)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    assert re.search(detail, response.json()["error"]), response.json()
    assert binary_values(client.post(PIXELS, **binary_request(IMAGE))).shape == (1, 5)


def test_body_above_the_limit_is_not_read(tiny_repository: Path) -> None:
    with serve(Settings(repository=tiny_repository, max_body_bytes=4000, max_decompressed_bytes=5000)) as client:
        assert client.post(PIXELS, **binary_request(IMAGE)).status_code == 200
        two = binary_request(np.concatenate([IMAGE, IMAGE]))
        too_large = client.post(PIXELS, **two)
        assert too_large.status_code == 413
        assert "4,000 bytes" in too_large.json()["error"]
        compressed = {
            "content": gzip.compress(two["content"]),
            "headers": {**two["headers"], "content-encoding": "gzip"},
        }
        assert len(compressed["content"]) < 4000
        assert client.post(PIXELS, **compressed).status_code == 413


def test_overload_and_deadlines_in_v2(tiny_repository: Path) -> None:
    settings = Settings(
        repository=tiny_repository, executor="simulated:300", max_batch=1, max_in_flight_images=1, max_images=1
    )
    with serve(settings) as client:
        responses = client.post_together(PIXELS, [binary_request(IMAGE)] * 8)
        refused = [response for response in responses if response.status_code != 200]
        assert 1 <= len(refused) < len(responses)
        for response in refused:
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert "try again" in response.json()["error"]
        late = client.post(PIXELS, **binary_request(IMAGE, parameters={"timeout": 20_000}))
        assert late.status_code == 504
        (counted,) = client.get("/v2/models/tiny/stats").json()["model_stats"]
        assert counted["inference_stats"]["fail"]["count"] == len(refused) + 1


def test_raw_body_gives_the_pixels_of_pillow(client: Client, photographs: Photographs) -> None:
    """Image files, and their pixels decoded by Pillow, give the same response."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(photographs[0][1])) as image:
        image.save(buffer, "PNG")
    answer = client.post(FILES, **files_request(element(buffer.getvalue()), [1])).json()["outputs"][0]["data"]
    pixels = binary_values(client.post(PIXELS, **binary_request(cut(buffer.getvalue())[None])))
    np.testing.assert_allclose(answer, pixels[0], atol=1e-6)
