"""Requests to every documented path, with each kind of error."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.acceptance.faults.served import ROOT
from tests.support.tiny import cut, read_photographs

MODEL = "tiny"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Request:
    """A request, by `httpx`."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.headers.get('content-type', '')} {len(self.body)} bytes"


def all_requests() -> list[Request]:
    """Every request, in an order in which admin requests restore what they change."""
    return [*_read_only(), *_images(), *_errors(), *_tensors(), *_admin(), *_read_only()]


def _read_only() -> Iterator[Request]:
    paths = [
        "/", "/docs", "/openapi.json", "/examples", "/healthz", "/readyz", "/readyz?verbose", "/nothing",
        "/v1/models", f"/v1/models/{MODEL}", "/v1/models/other",
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats",
    ]  # fmt: skip
    for model in (MODEL, "other"):
        paths += [f"/v1/models/{model}{end}" for end in ("/card", "/versions/1/card", "/rollout", "/rollout/images")]
    for name in (MODEL, f"{MODEL}-encoded", "other"):
        for version in ("", "/versions/1", "/versions/7", "/versions/x"):
            paths += [f"/v2/models/{name}{version}{end}" for end in ("", "/config", "/ready", "/stats")]
    yield from (Request("GET", path) for path in paths)
    yield from (Request(method, "/v1/classify") for method in ("GET", "PUT", "OPTIONS"))
    yield Request("HEAD", "/healthz")
    yield Request("GET", "/examples/ankle-boot.png")
    yield Request("GET", "/healthz", headers={"x-request-id": "my-own"})
    yield Request("POST", "/v2/repository/index", b"{}", JSON)
    yield Request("POST", "/v2/repository/index", b'{"ready": true}', JSON)


def _images() -> Iterator[Request]:
    photographs = [data for _, data in read_photographs()]
    image = {"content-type": "image/jpeg"}
    for query in (
        "", "?top_k=1", "?top_k=100", "?embedding=true", "?cam=values", "?cam=true", "?cam=overlay", "?cam=picture",
        "?cam=picture&embedding=true&top_k=3", "?priority=bulk", "?errors=inline", "?timeout_ms=60000",
    ):  # fmt: skip
        for path in ("/v1/classify", f"/v1/models/{MODEL}/classify", f"/v1/models/{MODEL}/versions/1/classify"):
            yield Request("POST", path + query, photographs[0], image)
        yield _form(f"/v1/classify{query}", photographs[:3])
        yield _json(f"/v1/classify{query}", photographs[:3])
        lines = _form(f"/v1/classify{query}", photographs[:3])
        yield Request("POST", lines.path, lines.body, lines.headers | {"accept": "application/x-ndjson"})
    for file in sorted((ROOT / "models" / "pretrained" / "examples").glob("*.png")):
        yield Request("POST", "/v1/classify", file.read_bytes())
    yield _form("/v1/classify?cam=picture", photographs * 2)
    for path in (f"/v1/models/{MODEL}/lesion", f"/v1/models/{MODEL}/versions/1/lesion"):
        yield Request("POST", f"{path}?deleted=1", photographs[0], image)
    urls = [f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in photographs[:3]]
    for model in (MODEL, "other"):
        for more in ({}, {"encoding_format": "base64"}, {"dimensions": 2}):
            yield Request("POST", "/v1/embeddings", json.dumps({"model": model, "input": urls} | more).encode(), JSON)


def _errors() -> Iterator[Request]:
    (_, photograph), *_ = read_photographs()
    classify = "/v1/classify"
    yield from (
        Request("POST", classify + query, photograph)
        for query in ("?top_k=0", "?topk=3", "?cam=no", "?timeout_ms=0", "?priority=urgent", "?timeout_ms=1e-3")
    )
    yield Request("POST", "/v1/models/other/classify", photograph)
    yield Request("POST", f"/v1/models/{MODEL}/versions/7/classify", photograph)
    yield Request("POST", f"/v1/models/{MODEL}/versions/x/classify", photograph)
    yield Request("POST", classify, b"", {"content-type": "image/png"})
    yield Request("POST", classify, b"not an image")
    yield Request("POST", classify, photograph[:2000])
    yield Request("POST", classify + "?errors=inline", photograph[:2000])
    yield Request("POST", classify, photograph, {"content-type": "text/plain"})
    yield Request("POST", classify, b'{"images": []}', JSON)
    yield Request("POST", classify, b'{"images": [{"base64": "?"}]}', JSON)
    yield Request("POST", classify, b"{", JSON)
    yield Request("POST", classify, b"[" * 600_000, JSON)
    yield Request("POST", classify, b"no form", {"content-type": "multipart/form-data; boundary=x"})
    yield Request("POST", classify, photograph, {"content-encoding": "gzip"})
    yield Request("POST", classify, bytes(3_000_000))
    yield Request("POST", classify, photograph, {"x-request-id": "not valid!"})
    yield Request("POST", classify, photograph, {"authorization": "Bearer unknown"})
    yield _form(classify, [photograph, b"broken", photograph[:1000]])
    yield _form(classify, [photograph] * 9)
    lines = _form(classify, [photograph, b"broken"])
    yield Request("POST", classify, lines.body, lines.headers | {"accept": "application/x-ndjson"})


def _tensors() -> Iterator[Request]:
    photographs = [data for _, data in read_photographs()]
    pixels = np.stack([cut(data) for data in photographs[:3]])
    shape = list(pixels.shape)
    for outputs in (["probabilities"], ["logits", "embedding", "feature_map"]):
        for binary in (False, True):
            wanted = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
            tensor = {"name": "images", "shape": shape, "datatype": "UINT8"}
            yield _infer(MODEL, {"id": "7", "inputs": [tensor | {"data": pixels.tolist()}], "outputs": wanted})
            size = {"parameters": {"binary_data_size": pixels.nbytes}}
            yield _infer(MODEL, {"inputs": [tensor | size], "outputs": wanted}, pixels.tobytes())
    file = len(photographs[0]).to_bytes(4, "little") + photographs[0]
    encoded = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(file)}}
    best = [{"name": "probabilities", "parameters": {"classification": 2, "binary_data": False}}]
    yield _infer(f"{MODEL}-encoded", {"inputs": [encoded], "outputs": best}, file)
    yield _infer(f"{MODEL}-encoded/versions/1", {"inputs": [encoded]}, file)
    whole = {"inference-header-content-length": "0", "content-type": "application/octet-stream"}
    yield Request("POST", f"/v2/models/{MODEL}-encoded/infer", photographs[0], whole)
    yield _infer(MODEL, {"inputs": []})
    yield _infer(MODEL, {"inputs": [{"name": "images", "shape": [1, 2], "datatype": "UINT8", "data": [1, 2]}]})
    yield _infer(MODEL, {"inputs": [{"name": "images", "shape": shape, "datatype": "FP32", "data": []}]})
    yield _infer(f"{MODEL}/versions/7", {"inputs": []})
    yield _infer("other", {"inputs": []})
    yield _infer(f"{MODEL}-encoded", {"inputs": [encoded]}, file[:-10])
    yield Request("POST", f"/v2/models/{MODEL}/infer", b"{", JSON)


def _admin() -> Iterator[Request]:
    load, unload = (f"/v2/repository/models/{MODEL}/{end}" for end in ("load", "unload"))
    (_, photograph), *_ = read_photographs()
    for path in (unload, load):
        yield Request("POST", path, b"{}", JSON)
        yield Request("POST", "/v2/repository/index", b"{}", JSON)
        yield Request("GET", f"/v1/models/{MODEL}")
        yield Request("GET", "/readyz?verbose")
        yield Request("POST", f"/v1/models/{MODEL}/classify", photograph)
    yield Request("POST", load, b'{"parameters": {"config": "x"}}', JSON)
    yield Request("POST", "/v2/repository/models/other/load", b"{}", JSON)


def _form(path: str, files: list[bytes]) -> Request:
    parts = [
        f'--border\r\nContent-Disposition: form-data; name="image"; filename="{number}.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    headers = {"content-type": "multipart/form-data; boundary=border"}
    return Request("POST", path, b"".join(parts) + b"--border--\r\n", headers)


def _json(path: str, files: list[bytes]) -> Request:
    images = [{"base64": base64.b64encode(data).decode()} for data in files]
    return Request("POST", path, json.dumps({"images": images}).encode(), JSON)


def _infer(model: str, content: dict[str, object], tensors: bytes = b"") -> Request:
    head = json.dumps(content).encode()
    headers = {"content-type": "application/octet-stream" if tensors else "application/json"}
    if tensors:
        headers["inference-header-content-length"] = str(len(head))
    return Request("POST", f"/v2/models/{model}/infer", head + tensors, headers)
