"""The HTTP API: every way to send an image gives the probabilities of the eager model, every mistake its error."""

from __future__ import annotations

import base64
import gc
import gzip
import io
import json
import quopri
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.types import Message
from typer.testing import CliRunner

from export.__main__ import app as export_app
from models.artifact import manifest
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.core.settings import Settings
from service.inference import activation_maps
from tests.support.api import Chunks, as_form, as_json, check, check_problem, check_still_answers, metrics
from tests.support.asgi import Exchange
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import Eager

Photographs = list[tuple[str, bytes]]
Send = Callable[[bytes], dict[str, Any]]


def as_json_in_lines(*files: bytes) -> dict[str, Any]:
    """As the command `base64` writes it."""
    return {"json": {"images": [{"base64": base64.encodebytes(data).decode()} for data in files]}}


def as_type(content_type: str) -> Send:
    return lambda data: {"content": data, "headers": {"content-type": content_type}}


def as_part(head: str, encode: Callable[[bytes], bytes] = bytes) -> Send:
    """A form with a field and one file, whose part has these headers."""

    def send(data: bytes) -> dict[str, Any]:
        field = b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
        part = b"--x\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + encode(data) + b"\r\n"
        empty = b'--x\r\nContent-Disposition: form-data; name="b"; filename=""\r\n\r\n\r\n--x--\r\n'
        return {"content": field + part + empty, "headers": {"content-type": "multipart/form-data; boundary=x"}}

    return send


ONE_IMAGE: dict[str, Send] = {
    "image/*": as_type("image/*"),
    "binary/octet-stream": as_type("binary/octet-stream"),
    "an empty type": as_type(""),
    "JSON with a byte-order mark": lambda data: {
        "content": b"\xef\xbb\xbf" + json.dumps(as_json(data)["json"]).encode(),
        "headers": {"content-type": "application/vnd.example+json"},
    },
    "a part with an extended name": as_part("name=image; filename*=UTF-8''%C3%A9.jpg"),
    "a part with a name in sections": as_part('name="image"; filename*0="a"; filename*1=".jpg"'),
    "a part with a type only": as_part('name="image"\r\nContent-Type: image/jpeg'),
    "a part with a file name only": as_part('filename="a.jpg"'),
    "a part in base64": as_part("name=i; filename=i\r\nContent-Transfer-Encoding: BASE64", base64.encodebytes),
    "a part in quoted-printable": as_part(
        "name=i; filename=i\r\nContent-Transfer-Encoding: quoted-printable", quopri.encodestring
    ),
    "a binary part": as_part("name=i; filename=i\r\ncontent-transfer-encoding: binary"),
    "image/jpeg": as_type("image/jpeg"),
    "image/png although it is JPEG": as_type("image/png"),
    "application/octet-stream": as_type("application/octet-stream"),
    "no type": lambda data: {"content": data},
    "form": as_form,
    "JSON": as_json,
    "JSON with line breaks": as_json_in_lines,
    "JSON with a charset": lambda data: {
        "content": json.dumps(as_json(data)["json"]),
        "headers": {"content-type": "application/json; charset=utf-8"},
    },
}


@pytest.mark.parametrize("send", ONE_IMAGE.values(), ids=ONE_IMAGE.keys())
def test_every_way_to_send_an_image(send: Send, client: Client, photographs: Photographs, eager: Eager) -> None:
    for _, data in photographs:
        response = client.post("/v1/classify", **send(data))
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        assert (answer["model"], answer["version"]) == ("tiny", "1")
        (result,) = answer["results"]
        check(result, data, eager)


@pytest.mark.parametrize("send", [as_form, as_json])
def test_several_images_in_one_request(
    send: Callable[..., dict[str, Any]], client: Client, photographs: Photographs, eager: Eager
) -> None:
    files = [data for _, data in photographs] * 5
    answer = client.post("/v1/classify", **send(*files)).json()
    for data, result in zip(files, answer["results"], strict=True):
        check(result, data, eager)


@pytest.mark.parametrize("send", [as_form, as_json])
def test_a_bad_image_among_several_fails_alone(
    send: Callable[..., dict[str, Any]], client: Client, photographs: Photographs, eager: Eager
) -> None:
    good, other = photographs[0][1], photographs[1][1]
    response = client.post("/v1/classify", **send(good, b"no image", other, good[:2000], bomb(20_000, 20_000)))
    assert response.status_code == 200
    results = response.json()["results"]
    check(results[0], good, eager)
    check(results[2], other, eager)
    assert [result["error"]["status"] for result in (results[1], *results[3:])] == [422, 422, 413]
    assert all(result["error"]["detail"] and "predictions" not in result for result in (results[1], *results[3:]))


def test_error_of_a_single_image_is_inline_on_request(client: Client) -> None:
    for data, status in ((b"no image", 422), (bomb(20_000, 20_000), 413)):
        response = client.post("/v1/classify?errors=inline", content=data)
        assert response.status_code == 200
        (result,) = response.json()["results"]
        assert result.keys() == {"error"}
        assert result["error"]["status"] == status


def test_many_requests_at_once(client: Client, photographs: Photographs, eager: Eager) -> None:
    files = [data for _, data in photographs] * 8
    responses = client.post_together("/v1/classify", [{"content": data} for data in files])
    for data, response in zip(files, responses, strict=True):
        check(response.json()["results"][0], data, eager)


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (3, 3), (5, 5), (1000, 5)])
def test_top_k_is_at_most_all_classes(
    asked: int, given: int, client: Client, photographs: Photographs, eager: Eager
) -> None:
    _, data = photographs[2]
    answer = client.post(f"/v1/classify?top_k={asked}", content=data).json()
    check(answer["results"][0], data, eager, given)


@pytest.mark.parametrize("path", ["/v1/models/tiny/classify", "/v1/models/tiny/versions/1/classify"])
def test_a_model_and_version_by_name(path: str, client: Client, photographs: Photographs, eager: Eager) -> None:
    _, data = photographs[3]
    answer = client.post(path, content=data).json()
    assert (answer["model"], answer["version"]) == ("tiny", "1")
    check(answer["results"][0], data, eager)


def test_timing_adds_up(client: Client, photographs: Photographs) -> None:
    timing = client.post("/v1/classify", content=photographs[0][1]).json()["timing"]
    assert timing.keys() == {"decode_ms", "queue_ms", "inference_ms", "batch_size", "total_ms"}
    assert timing["batch_size"] == 1
    assert min(timing["decode_ms"], timing["inference_ms"]) > 0
    assert timing["decode_ms"] + timing["queue_ms"] + timing["inference_ms"] <= timing["total_ms"] + 0.01


def test_total_time_is_not_below_one_of_its_parts(tiny_repository: Path, photographs: Photographs) -> None:
    """Batches that are computed at the same time take more time together than passes."""
    with serve(Settings(repository=tiny_repository, executor="simulated:30", max_batch=1, instances=2)) as client:
        timing = client.post("/v1/classify", **as_form(*[photographs[0][1]] * 6)).json()["timing"]
    parts = {name: value for name, value in timing.items() if name.endswith("_ms")}
    assert max(parts.values()) == parts["total_ms"]
    assert parts["inference_ms"] > 30


def bomb(width: int, height: int) -> bytes:
    """A valid PNG header of a huge image, with nearly no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def json_body(text: str | bytes) -> dict[str, Any]:
    return {"content": text, "headers": {"content-type": "application/json"}}


def form_body(text: str) -> dict[str, Any]:
    return {"content": text, "headers": {"content-type": "multipart/form-data; boundary=x"}}


MISTAKES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "top_k of zero": ("/v1/classify?top_k=0", {"content": b"x"}, 400, "top_k: .*greater than or equal to 1"),
    "top_k in words": ("/v1/classify?top_k=all", {"content": b"x"}, 400, "top_k"),
    "another spelling": (
        "/v1/classify?topk=3",
        {"content": b"x"},
        400,
        "'topk': did you mean 'top_k'",
    ),
    "a parameter in capitals": ("/v1/classify?Timeout-MS=3", {"content": b"x"}, 400, "did you mean 'timeout_ms'"),
    "an unknown parameter": ("/v1/classify?limit=3", {"content": b"x"}, 400, "'limit'; there are: top_k, timeout_ms"),
    "no time": ("/v1/classify?timeout_ms=0", {"content": b"x"}, 400, "timeout_ms"),
    "endless time": ("/v1/classify?timeout_ms=inf", {"content": b"x"}, 400, "timeout_ms"),
    "time that is no number": ("/v1/classify?timeout_ms=nan", {"content": b"x"}, 400, "timeout_ms"),
    "malformed JSON": ("/v1/classify", json_body('{"images": ['), 400, "Invalid JSON.*expected"),
    "JSON that is not UTF-8": ("/v1/classify", json_body(b"\xff"), 400, "JSON"),
    "JSON of another shape": ("/v1/classify", json_body('{"image": "aGk="}'), 400, "images: .*expected"),
    "JSON without images": ("/v1/classify", json_body('{"images": []}'), 400, "images"),
    "JSON with a number": ("/v1/classify", json_body('{"images": [{"base64": 1}]}'), 400, "images.0.base64"),
    "bad base64": ("/v1/classify", json_body('{"images": [{"base64": "####"}]}'), 400, "images.0.base64: .*base64"),
    "cut base64": ("/v1/classify", json_body('{"images": [{"base64": "aGk"}]}'), 400, "images.0.base64: .*base64"),
    "a data URL of text": (
        "/v1/classify",
        json_body('{"images": [{"base64": "data:text/plain,cat"}]}'),
        400,
        "not in base64: it must begin",
    ),
    "a form without a file": ("/v1/classify", {"files": {"image": (None, "cat")}}, 400, "has no file"),
    "a form without a boundary": (
        "/v1/classify",
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    "a form that is cut short": (
        "/v1/classify",
        form_body('--x\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\ncat\r\n--x'),
        400,
        "the form cannot be read: its end is missing",
    ),
    "a form with a part without a name": (
        "/v1/classify",
        form_body("--x\r\nContent-Type: image/png\r\n\r\ncat\r\n--x--\r\n"),
        400,
        "no Content-Disposition with a name",
    ),
    "a form of fields": ("/v1/classify", {"files": [("i", (None, "cat"))] * 300}, 413, "more than 256 parts"),
    "a form that is none": ("/v1/classify", form_body("hello"), 400, "the form cannot be read"),
    "a model that is not there": ("/v1/models/resnet/classify", {"content": b"x"}, 404, "resnet.*tiny version 1"),
    "a version that is not there": (
        "/v1/models/tiny/versions/2/classify",
        {"content": b"x"},
        404,
        "tiny version 2.*tiny version 1",
    ),
    "a version that is no number": ("/v1/models/tiny/versions/latest/classify", {"content": b"x"}, 400, "version"),
    "a path that is not there": ("/v3/classify", {"content": b"x"}, 404, "/docs"),
    "a method that is not taken": ("/v1/models", {"content": b"x"}, 405, "accepts GET, not POST"),
    "too many pixels": ("/v1/classify", {"content": bomb(20_000, 20_000)}, 413, "20000 x 20000.*64,000,000"),
    "too many images": ("/v1/classify", as_json(*[b"x"] * 129), 413, "129 images.*128"),
    "too many files": ("/v1/classify", as_form(*[b"x"] * 129), 413, "128"),
    "far too many files": ("/v1/classify", as_form(*[b"x"] * 300), 413, "128"),
    "a text": ("/v1/classify", as_type("text/plain")(b"cat"), 415, "'text/plain'.*multipart/form-data.*JSON"),
    "a type that is none": ("/v1/classify", as_type("image/../x")(b"cat"), 415, "'image/../x'"),
    "an unknown encoding of a part": (
        "/v1/classify",
        as_part("name=i; filename=i\r\nContent-Transfer-Encoding: uuencode")(b"cat"),
        415,
        "'uuencode' is not supported",
    ),
    "damaged base64 in a part": (
        "/v1/classify",
        as_part("name=i; filename=i\r\nContent-Transfer-Encoding: base64")(b"####"),
        400,
        "Content-Transfer-Encoding",
    ),
    "an URL-encoded form": ("/v1/classify", {"data": {"image": "cat"}}, 415, "urlencoded"),
    "nothing": ("/v1/classify", {"content": b""}, 422, "empty"),
    "an empty file": ("/v1/classify", as_form(b""), 422, "empty"),
    "empty base64": ("/v1/classify", as_json(b""), 422, "empty"),
    "a text called an image": ("/v1/classify", as_type("image/png")(b"cat"), 422, "known format.*JPEG"),
}


@pytest.mark.parametrize(("path", "options", "status", "detail"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(
    path: str,
    options: dict[str, Any],
    status: int,
    detail: str,
    client: Client,
    photographs: Photographs,
    eager: Eager,
) -> None:
    check_problem(client.post(path, **options), status, detail)
    check_still_answers(client, photographs, eager)


def test_a_truncated_photograph(client: Client, photographs: Photographs, eager: Eager) -> None:
    for _, data in photographs:
        check_problem(client.post("/v1/classify", content=data[: len(data) // 2]), 422, "whole file")
    check_still_answers(client, photographs, eager)


def test_the_methods_that_a_path_takes(client: Client) -> None:
    response = client.request("PUT", "/v1/classify", content=b"x")
    check_problem(response, 405, "the path accepts POST, not PUT")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models/tiny/versions/1/classify", "POST"),
        ("/v1/models/tiny/rollout", "GET"),
        ("/v2/models/tiny/infer", "POST"),
        ("/readyz", "GET"),
    ],
)
def test_methods_of_a_path_are_named(path: str, methods: str, client: Client) -> None:
    response = client.request("PATCH", path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)
    assert f"the path accepts {methods}, not PATCH" in response.text


@pytest.fixture(scope="module")
def narrow(tiny_repository: Path) -> Iterator[Client]:
    """A service with small limits."""
    with serve(Settings(repository=tiny_repository, max_body_bytes=20_000, max_images=2, max_pixels=900)) as client:
        yield client


def test_json_is_bounded_after_decompression(narrow: Client) -> None:
    content = gzip.compress(json.dumps(as_json(bytes(20_000))["json"]).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert len(content) < 1000
    check_problem(narrow.post("/v1/classify", content=content, headers=headers), 413, "JSON is larger than the 20,000")


@pytest.mark.parametrize("content_type", ["image/png", "application/json"])
def test_a_body_that_is_announced_too_large_is_not_read(content_type: str, narrow: Client) -> None:
    body = Chunks(21)
    headers = {"content-type": content_type, "content-length": "21000"}
    check_problem(narrow.post("/v1/classify", content=body, headers=headers), 413, "20,000 bytes")
    assert body.sent == 0


@pytest.mark.parametrize("content_type", ["image/png", "application/json"])
def test_a_body_that_turns_out_too_large_is_read_up_to_the_limit(content_type: str, narrow: Client) -> None:
    body = Chunks(1000)
    check_problem(
        narrow.post("/v1/classify", content=body, headers={"content-type": content_type}), 413, "20,000 bytes"
    )
    assert body.sent == 21


def test_a_form_that_is_too_large(narrow: Client) -> None:
    check_problem(narrow.post("/v1/classify", **as_form(bytes(20_001))), 413, "20,000 bytes")


def test_limits_are_inclusive(narrow: Client) -> None:
    fits, too_large = io.BytesIO(), io.BytesIO()
    Image.new("L", (45, 20)).save(fits, "BMP")
    Image.new("L", (41, 22)).save(too_large, "BMP")
    padded = fits.getvalue() + bytes(20_000 - len(fits.getvalue()))
    assert narrow.post("/v1/classify", content=padded).status_code == 200
    check_problem(narrow.post("/v1/classify", content=padded + b"\0"), 413, "bytes")
    check_problem(narrow.post("/v1/classify", content=too_large.getvalue()), 413, "41 x 22")
    assert narrow.post("/v1/classify", **as_form(*[fits.getvalue()] * 2)).status_code == 200
    check_problem(narrow.post("/v1/classify", **as_form(*[fits.getvalue()] * 3)), 413, "several")


def test_model_card_is_that_of_the_command(client: Client, tiny_repository: Path) -> None:
    done = CliRunner().invoke(export_app, ["inspect", "--card", str(tiny_repository)])
    assert done.exit_code == 0
    assert "# tiny, version 1" in done.stdout
    for path in ("/v1/models/tiny/card", "/v1/models/tiny/versions/1/card"):
        answer = client.get(path)
        assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
        assert answer.text == done.stdout
    check_problem(client.get("/v1/models/tiny/versions/2/card"), 404, "tiny version 2")


def test_requests_get_503_while_models_load(tiny_repository: Path, photographs: Photographs, eager: Eager) -> None:
    hold = Event()
    with serve(Settings(repository=tiny_repository), hold) as client:
        for path in ("/v1/classify", "/v1/models/tiny/classify"):
            check_problem(client.post(path, content=photographs[0][1]), 503, "loaded")
        check_problem(client.get("/v1/models/tiny"), 503, "loaded")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert ready.json()["reasons"]
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models").json() == {"models": []}
        hold.set()
        assert client.loaded.wait(TIMEOUT)
        assert client.get("/readyz").json() == {"ready": True, "reasons": []}
        check_still_answers(client, photographs, eager)


def test_probes_of_a_ready_service(client: Client) -> None:
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
    alive = client.get("/healthz")
    assert (alive.status_code, alive.text) == (200, "ok\n")


def break_weights(version: Path) -> None:
    with (version / "model.onnx").open("ab") as file:
        file.write(b"\0")


def break_golden(version: Path) -> None:
    """A file that matches the manifest but cannot be read."""
    (version / "golden.npz").write_bytes(b"no arrays")
    content = json.loads((version / "manifest.json").read_text())
    content["golden_sha256"] = manifest.sha256(version / "golden.npz")
    (version / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "reason"), [(break_weights, r"model\.onnx"), (break_golden, r"golden\.npz: does not hold")]
)
def test_service_without_a_usable_model_answers_with_the_reason(
    spoil: Callable[[Path], None], reason: str, tiny_repository: Path, tmp_path: Path, photographs: Photographs
) -> None:
    shutil.copytree(tiny_repository, tmp_path / "repository")
    spoil(tmp_path / "repository" / "tiny" / "1")
    with serve(Settings(repository=tmp_path / "repository")) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert re.search(reason, ready.json()["reasons"][0])
        check_problem(client.post("/v1/classify", content=photographs[0][1]), 503, reason)
        assert client.get("/v1/models").json() == {"models": []}
        assert client.get("/healthz").status_code == 200


def test_an_empty_repository(tmp_path: Path) -> None:
    with serve(Settings(repository=tmp_path)) as client:
        assert client.get("/readyz").status_code == 503
        check_problem(client.post("/v1/classify", content=b"x"), 503, "holds no model")


@pytest.fixture
def two_models(tiny_repository: Path, tmp_path: Path) -> Path:
    """`another` and `tiny`, with the same weights."""
    shutil.copytree(tiny_repository, tmp_path / "repository")
    shutil.copytree(tiny_repository / "tiny", tmp_path / "repository" / "another")
    path = tmp_path / "repository" / "another" / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "another"}))
    return tmp_path / "repository"


def test_two_models(two_models: Path, photographs: Photographs, eager: Eager) -> None:
    _, data = photographs[0]
    with serve(Settings(repository=two_models)) as client:
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["another", "tiny"]
        for path, model in (("", "another"), ("/models/tiny", "tiny"), ("/models/another", "another")):
            answer = client.post(f"/v1{path}/classify", content=data).json()
            assert answer["model"] == model
            check(answer["results"][0], data, eager)
    with serve(Settings(repository=two_models, model="tiny")) as client:
        assert client.post("/v1/classify", content=data).json()["model"] == "tiny"


def test_a_broken_model_does_not_stop_the_other(two_models: Path, photographs: Photographs, eager: Eager) -> None:
    break_golden(two_models / "another" / "1")
    with serve(Settings(repository=two_models)) as client:
        assert client.get("/readyz").status_code == 200
        check_still_answers(client, photographs, eager)
        check_problem(client.post("/v1/models/another/classify", content=b"x"), 503, "another is not served: .*golden")


def test_overload_and_deadlines(tiny_repository: Path, photographs: Photographs) -> None:
    settings = Settings(
        repository=tiny_repository, executor="simulated:300", max_batch=1, max_in_flight_images=1, max_images=1
    )
    send: dict[str, Any] = {"content": photographs[0][1]}
    with serve(settings) as client:
        responses = client.post_together("/v1/classify", [send] * 8)
        refused = [response for response in responses if response.status_code != 200]
        assert 1 <= len(refused) < len(responses)
        for response in refused:
            check_problem(response, 503, "try again in")
            assert int(response.headers["retry-after"]) >= 1
        check_problem(client.post("/v1/classify?timeout_ms=20", **send), 504, "time")
        assert client.post("/v1/classify", **send).status_code == 200


def test_a_failing_executor(
    client: Client, photographs: Photographs, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a secret of the machine")

    with monkeypatch.context() as patch:
        patch.setattr(client.engine().executors[0], "run", fail)
        response = client.post("/v1/classify", content=photographs[0][1])
        check_problem(response, 500, "try again")
        assert "secret" not in response.text
    check_still_answers(client, photographs, eager)


def test_values_that_are_not_finite_are_an_error_of_their_image(
    client: Client, photographs: Photographs, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = client.engine().executors[0]
    run = executor.run

    def overflow(images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        """The first image of each batch gets values that are not finite."""
        computed = {name: np.array(values) for name, values in run(images, outputs).items()}
        for values in computed.values():
            values[0] = np.nan
        return computed

    files = [data for _, data in photographs[:2]]
    embeddings = {"model": "tiny", "input": base64.b64encode(files[0]).decode()}
    with monkeypatch.context() as patch:
        patch.setattr(executor, "run", overflow)
        for path in ("/v1/classify", "/v1/classify?cam=values&embedding=true"):
            check_problem(client.post(path, content=files[0]), 500, "not finite")
        assert "not finite" in client.post("/v1/embeddings", json=embeddings).json()["error"]["message"]
        for query in ("", "?cam=values"):
            first, second = client.post(f"/v1/classify{query}", **as_form(*files)).json()["results"]
            assert (first["error"]["status"], "predictions" in first) == (500, False)
            if not query:
                check(second, files[1], eager)
    assert "nan" not in client.get("/metrics").text.lower()
    check_still_answers(client, photographs, eager)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("bad_alloc"), RuntimeError("CUDA out of memory.")])
def test_an_executor_without_memory(
    error: Exception, client: Client, photographs: Photographs, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(client.engine().executors[0], "run", fail)
        response = client.post("/v1/classify", content=photographs[0][1])
    check_problem(response, 503, "memory")
    check_still_answers(client, photographs, eager)


@pytest.mark.parametrize(
    ("function", "path", "send"),
    [
        ("service.http.content.json_text.parse_now", "/v1/classify", as_json),
        ("service.http.content.base64_text.decode", "/v1/classify", as_json),
        ("service.http.content.json_text.parse_now", "/v2/models/tiny/infer", lambda data: {"content": b"{}"}),
        ("service.inference.activation_maps.activation_maps", "/v1/classify?cam=values", as_form),
        ("service.inference.top_k.top_k", "/v1/classify", as_form),
        ("service.http.v1.classify.encode", "/v1/classify", as_form),
    ],
)
def test_no_memory_is_an_overload(
    function: str,
    path: str,
    send: Send,
    client: Client,
    photographs: Photographs,
    eager: Eager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        response = client.post(path, **send(photographs[0][1]))
    assert response.status_code == 503, response.text
    assert response.headers["retry-after"] == "1"
    assert "memory" in response.text
    check_still_answers(client, photographs, eager)


def test_no_memory_for_an_image_ends_only_its_line(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = activation_maps.activation_maps, count()

    def fail_once(*arguments: Any) -> Any:
        if next(calls) == 0:
            raise MemoryError
        return draw(*arguments)

    files = [data for _, data in photographs[:3]]
    with monkeypatch.context() as patch:
        patch.setattr("service.inference.activation_maps.activation_maps", fail_once)
        request = as_form(*files)
        answer = client.post("/v1/classify?cam=values", headers={"accept": "application/x-ndjson"}, **request)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert sorted(line["index"] for line in lines) == [0, 1, 2]
    assert sorted("predictions" in line for line in lines) == [False, True, True]
    (failed,) = [line["error"] for line in lines if "error" in line]
    assert (failed["status"], "memory" in failed["detail"]) == (503, True)


def test_unexpected_error_does_not_reveal_its_cause(
    client: Client, photographs: Photographs, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*arguments: object) -> None:
        raise RuntimeError("a secret of the machine")

    with monkeypatch.context() as patch:
        patch.setattr(client.pipeline, "classify", fail)
        response = client.post("/v1/classify", content=photographs[0][1])
        check_problem(response, 500, "log")
        assert "secret" not in response.text
    check_still_answers(client, photographs, eager)


def test_broken_upload_is_not_logged_as_an_error(
    client: Client, photographs: Photographs, eager: Eager, caplog: pytest.LogCaptureFixture
) -> None:
    parts: list[Message] = [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}]
    messages = iter(parts)

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        """The client is disconnected."""

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "query_string": b"",
        "headers": [(b"content-length", b"1000")],
    }
    client.portal.call(client.app, scope, receive, send)
    assert next(messages, None) is None
    assert caplog.records == []
    check_still_answers(client, photographs, eager)


def test_description_of_a_model(client: Client) -> None:
    model = client.get("/v1/models/tiny").json()
    assert client.get("/v1/models").json() == {"models": [model]}
    expected = {
        "name": "tiny",
        "version": "1",
        "labels": [f"class {index}" for index in range(5)],
        "input_size": [32, 32],
        "mode": "RGB",
        "architecture": "tiny",
        "executor": "onnxruntime-cpu",
        "precision": "float32",
        "accuracy": None,
    }
    assert {name: model[name] for name in expected} == expected
    assert model["max_batch"] >= 1
    former = {"lone_threads": "single_image_threads", "lanes": "concurrent_batches", "chosen": "config"}
    assert {name: model[name] for name in former} == {name: model[current] for name, current in former.items()}
    check_problem(client.get("/v1/models/resnet"), 404, "resnet")
    check_problem(client.get("/v1/models/.hidden"), 400, "model")


def test_metrics_count_requests(client: Client, photographs: Photographs) -> None:
    files = [photographs[0][1], photographs[1][1], b"bad"]
    before = metrics(client)
    assert client.post("/v1/classify", **as_form(*files)).status_code == 200
    assert client.post("/v1/classify", content=b"bad").status_code == 422
    assert client.post("/v1/classify", content=b"bad", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/v1/models/other/classify", content=b"bad").status_code == 404
    after = metrics(client)
    moved = {name: after[name] - before.get(name, 0.0) for name in after}
    assert moved["resnet_requests_total", "tiny", "200"] == 1
    assert moved["resnet_requests_total", "tiny", "422"] == 1
    assert moved["resnet_requests_total", "tiny", "415"] == 1
    assert moved["resnet_requests_total", "", "404"] == 1
    assert moved["resnet_images_total", "tiny"] == 2
    assert moved["resnet_batch_size_sum", "tiny"] == 2
    assert moved["resnet_batch_seconds_sum", "tiny"] > 0
    for stage in ("decode", "queue", "inference", "total"):
        assert moved["resnet_stage_seconds_count", "tiny", stage] == 1
    assert moved["resnet_stage_seconds_sum", "tiny", "total"] > 0
    assert after["resnet_requests_in_flight",] == 0
    assert after["resnet_queue_images", "tiny"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/absent/classify",
        "/v1/models/absent/lesion",
        "/v1/models/absent/versions/7/lesion",
        "/v1/embeddings",
        "/v2/models/absent/infer",
    ],
)
def test_names_of_absent_models_are_not_in_the_metrics(path: str, client: Client) -> None:
    assert client.post(path, json={"model": "absent", "input": "eA=="}).status_code == 404
    assert "absent" not in client.get("/metrics").text


def references(value: object) -> Iterator[str]:
    """All `$ref`s in a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_the_openapi_document(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    operations = {
        (method, path): operation for path, item in document["paths"].items() for method, operation in item.items()
    }
    classify = {
        ("post", "/v1/classify"),
        ("post", "/v1/models/{model}/classify"),
        ("post", "/v1/models/{model}/versions/{version}/classify"),
    }
    lesion = {("post", "/v1/models/{model}/lesion"), ("post", "/v1/models/{model}/versions/{version}/lesion")}
    cards = ("/v1/models/{model}/card", "/v1/models/{model}/versions/{version}/card")
    about = (
        "/v1/models",
        "/v1/models/{model}",
        "/v1/models/{model}/rollout",
        "/v1/models/{model}/rollout/images",
        *cards,
    )
    gets = {("get", path) for path in (*about, "/healthz", "/readyz", "/metrics")}
    assert {name for name in operations if not name[1].startswith("/v2")} == classify | gets | lesion | {
        ("post", "/v1/embeddings")
    }
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    assert [name for name, operation in operations.items() if len(operation.get("tags", [])) != 1] == []
    for reference in references(document):
        target: Any = document
        assert reference.startswith("#/")
        for part in reference[2:].split("/"):
            target = target[part]
    for name in classify:
        content = operations[name]["requestBody"]["content"]
        assert content.keys() == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
        assert {"200", "400", "404", "413", "415", "422", "500", "503", "504"} <= operations[name]["responses"].keys()
        answers = operations[name]["responses"]["200"]["content"]
        assert answers.keys() == {"application/json", "application/x-ndjson"}
        in_path = {parameter["name"] for parameter in operations[name]["parameters"] if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", name[1]))
    image = operations["post", "/v1/classify"]["requestBody"]["content"]["application/json"]["schema"]
    assert image["properties"]["images"]["items"]["properties"].keys() == {"base64"}


@pytest.mark.parametrize(("method", "status"), [("POST", 200), ("GET", 405)])
def test_classify_route_behind_a_root_path(method: str, status: int, client: Client, photographs: Photographs) -> None:
    """A server with a root path puts it before the path; some proxies remove it from the request, others do not."""

    async def ask(path: str) -> int:
        transport = httpx.ASGITransport(client.app, root_path="/vision")
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            return (await http.request(method, path, content=photographs[0][1])).status_code

    assert client.portal.call(ask, "/vision/v1/classify") == status
    assert client.portal.call(ask, "/v1/classify") == status


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", [False, True], ids=["answered", "refused"])
def test_requests_leave_no_cycle_of_references(spoilt: bool, client: Client, photographs: Photographs) -> None:
    """The server collects garbage so rarely that each cycle would hold megabytes for a long time."""
    requests = 100
    image = photographs[0][1][: 1000 if spoilt else None]

    async def collected() -> int:
        gc.collect()
        gc.disable()
        try:
            for _ in range(requests):
                await Exchange([image]).run(client.app)
            return gc.collect()
        finally:
            gc.enable()

    client.portal.call(collected)  # caches of the first time are no cycles
    assert client.portal.call(collected) < requests


def test_unexpected_error_is_answered_and_logged(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def mistaken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(client.pipeline, "classify", mistaken)
    response = client.post("/v1/classify", content=photographs[0][1], headers={"x-request-id": "mine"})
    check_problem(response, 500, "log")
    assert "mistake" not in response.text
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.json()["request_id"] == "mine"
    assert "a mistake" in caplog.text


def test_response_that_fails_midway_is_aborted(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not look like a complete response."""
    whole = client.pipeline.classify_each

    async def mistaken(*arguments: Any) -> Any:
        async for answer in whole(*arguments):
            yield answer
            raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(client.pipeline, "classify_each", mistaken)
    exchange = Exchange([photographs[0][1]], {"accept": "application/x-ndjson"})
    with pytest.raises(ZeroDivisionError):
        client.portal.call(exchange.run, client.app)
    assert exchange.status == 200
    assert len(exchange.answer.splitlines()) == 1
    assert "a mistake" in caplog.text
