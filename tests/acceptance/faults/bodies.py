"""Request bodies and answers: JSON, compression, heat maps, large answers, and what clients send."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tests.acceptance.faults.case import attack, check, expect
from tests.acceptance.faults.served import ROOT, ServedProcess, serve

MODEL = "fashion-mnist-resnet20"
PIXELS = f"/v2/models/{MODEL}/infer"
ENCODED = f"/v2/models/{MODEL}-encoded/infer"
JSON = {"content-type": "application/json"}
MEGABYTE = 1_000_000


def _post(service: ServedProcess, path: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(service.url + path, content=content, headers=JSON | named, timeout=60.0)


def _together(
    service: ServedProcess, count: int, path: str, content: bytes, **headers: str
) -> Sequence[httpx.Response]:
    """Answers to equal requests that are sent at the same time."""
    named = JSON | {name.replace("_", "-"): value for name, value in headers.items()}

    async def send() -> Sequence[httpx.Response]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=service.url, timeout=60.0, limits=limits) as client:
            posts = (client.post(path, content=content, headers=named) for _ in range(count))
            return await asyncio.gather(*posts)

    return asyncio.run(send())


def _expect_status(responses: Sequence[httpx.Response], *statuses: int) -> None:
    for response in responses:
        expect(response.status_code in statuses, f"{response.status_code}: {response.text[:200]}")


def _elements(before: str, element: str, after: str, count: int = 2_500_000) -> bytes:
    """JSON with a list of equal elements."""
    return f"{before}[{','.join([element] * count)}]{after}".encode()


def _tensor(data: str) -> bytes:
    shape = {"name": "images", "shape": [1, 28, 28, 1], "datatype": "UINT8"}
    return f'{{"inputs":[{json.dumps(shape)[:-1]},"data":{data}}}]}}'.encode()


def _names(count: int) -> str:
    return "{" + ",".join(f'"{number:x}":0' for number in range(count)) + "}"


@attack(1, "JSON of wrong elements")
def json_of_wrong_elements(service: ServedProcess) -> str:
    bodies = {
        "/v1/classify": [
            _elements('{"images":', "{}", "}"),
            _elements('{"images":', "0", "}"),
            _elements('{"images":', '{"base64":""}', "}", 100_000),
            _elements('{"images":', "1" * 4300, "}", 7000),
            b'{"images":[{"base64":"' + b"\\n" * (15 * MEGABYTE) + b'"}]}',
            b'{"images":[{"base64":"' + b"A " * (15 * MEGABYTE) + b'"}]}',
            b"[" * (30 * MEGABYTE),
            _names(500_000).encode(),
        ],
        PIXELS: [
            _elements(_tensor("[]").decode()[:-1] + ',"outputs":', "0", "}"),
            _elements(_tensor("[]").decode()[:-1] + ',"outputs":', "{}", "}"),
            _elements('{"inputs":', "{}", "}"),
            _elements('{"inputs":[{"name":"images","datatype":"UINT8","shape":', '"a"', "}]}"),
            _tensor(_names(500_000)),
            _tensor("[" + "[0]," * 2_500_000 + "0]"),
        ],
        "/v2/repository/index": [_elements('{"a":', "{}", "}")],
    }
    for path, contents in bodies.items():
        for content in contents:
            for encoding, sent in (("identity", content), ("gzip", gzip.compress(content, 1))):
                if len(sent) < 32 << 20:
                    _expect_status([_post(service, path, sent, content_encoding=encoding)], 400, 413, 422)
    within_bound = gzip.compress(_elements('{"images":', "{}", "}", 170_000))
    _expect_status(_together(service, 20, "/v1/classify", within_bound, content_encoding="gzip"), 400)
    return f"{sum(map(len, bodies.values()))} bodies as they are and compressed, and 20 at once, are refused"


@attack(2, "Values of the wrong kind in a JSON tensor")
def values_of_the_wrong_kind(service: ServedProcess) -> str:
    large = json.dumps(["a" * 300_000] + [""] * 3000)
    datas = [
        large,
        json.dumps(["a" * 1_000_000] + [""] * 783),
        json.dumps([0.5] * 784),
        json.dumps([True] * 784),
        json.dumps([[0] * 28] * 27 + [["a" * 900_000] * 1]),
        json.dumps([10**300] * 784),
        json.dumps([None] * 200_000),
        json.dumps([{"a": 1}] * 50_000),
    ]
    for data in datas:
        _expect_status([_post(service, PIXELS, _tensor(data))], 400, 413)
    _expect_status(_together(service, 20, PIXELS, _tensor(large)), 400)
    size = 30 * MEGABYTE
    files = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [files]}).encode()
    empty = _post(service, ENCODED, head + bytes(size), inference_header_content_length=str(len(head)))
    _expect_status([empty], 400)
    good = _post(service, PIXELS, _tensor(json.dumps([[[[7]] * 28] * 28])))
    _expect_status([good], 200)
    return f"{len(datas)} tensors are refused, and 20 at once"


@attack(7, "Compressed bodies", memory_mb=1024 + 600)
def compressed_bodies(service: ServedProcess) -> str:
    bomb = gzip.compress(bytes(60 * MEGABYTE), 9)
    answers = _together(service, 30, "/v1/classify", bomb, content_encoding="gzip", content_type="image/png")
    _expect_status(answers, 422, 503)
    text = gzip.compress(b'{"images":[{"base64":"' + base64.b64encode(bytes(24 * MEGABYTE)) + b'"}]}')
    _expect_status(_together(service, 20, "/v1/classify", text, content_encoding="gzip"), 422, 503, 504)
    _expect_status(_together(service, 20, PIXELS, bomb, content_encoding="deflate"), 413, 503)
    return f"20 to 30 bodies of {len(bomb) // 1000} kB at once, which hold 60 MB each"


def _photograph(side: int) -> bytes:
    """A photograph that compresses badly, so that pictures of it are large."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _form(files: Sequence[bytes]) -> tuple[bytes, str]:
    """A form with files, and its Content-Type."""
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\n' + data + b"\r\n" for data in files
    ]
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


LINES = "application/x-ndjson"


@attack(9, "Heat maps in lines", memory_mb=1024 + 600)
def heat_maps_in_lines(service: ServedProcess) -> str:
    many, form = _form([_photograph(28)] * 128)
    for query, status in (("top_k=1&cam=picture", 400), ("top_k=1000&cam=overlay", 200), ("cam=values", 200)):
        for accept in (LINES, "application/json"):
            response = _post(service, f"/v1/classify?{query}", many, content_type=form, accept=accept)
            _expect_status([response], status)
    allowed, form = _form([_photograph(1200)] * 6)
    answers = _together(service, 8, "/v1/classify?top_k=10&cam=picture", allowed, content_type=form, accept=LINES)
    _expect_status(answers, 200, 503)
    size = max(len(answer.content) for answer in answers)
    return f"{size / MEGABYTE:.0f} MB is the largest response"


@attack(10, "Large answers, and a small PNG that unpacks", memory_mb=1024 + 600)
def large_answers(service: ServedProcess) -> str:
    images = np.zeros((128, 28, 28, 1), np.uint8)
    tensor = {"name": "images", "shape": [*images.shape], "datatype": "UINT8"}
    parameters = {"binary_data_size": images.nbytes}
    outputs = [{"name": name} for name in ("feature_map", "embedding", "probabilities", "logits")]
    head = json.dumps({"inputs": [{**tensor, "parameters": parameters}], "outputs": outputs}).encode()
    named = {"inference_header_content_length": str(len(head))}
    answers = list(_together(service, 8, PIXELS, head + images.tobytes(), **named))
    form, kind = _form([_photograph(28)] * 128)
    for query in ("embedding=true", "top_k=10&cam=values", "top_k=1000"):
        answers += _together(service, 8, f"/v1/classify?{query}", form, content_type=kind)
    _expect_status(answers, 200, 503)
    text = zlib.compress(b"a" * 1_000_000, 9)
    bombs = [_png(kind, head + text) for kind, head in TEXTS.items() for _ in range(20)]
    for bomb in bombs:
        _expect_status([_post(service, "/v1/classify", bomb, content_type="image/png")], 200, 413, 422)
    largest = max(len(answer.content) for answer in answers) / MEGABYTE
    return f"up to {largest:.1f} MB, and PNG files of {len(bombs[0])} bytes"


TEXTS = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}


def _png(kind: bytes, content: bytes) -> bytes:
    """An image with as many chunks of a kind as fit into 14 kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    count = 1 if kind == b"iCCP" else 13_000 // (len(content) + 12)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(29 * 28)))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(kind, content) * count + pixels + chunk(b"IEND", b"")


@attack(11, "Threads that are busy, and requests that are refused before they are read")
def busy_threads(service: ServedProcess) -> str:
    large, form = _form([_photograph(1200)] * 6)
    longest = 0.0

    async def send() -> None:
        nonlocal longest
        async with httpx.AsyncClient(base_url=service.url, timeout=60.0) as client:
            drawing = [
                asyncio.create_task(
                    client.post("/v1/classify?top_k=10&cam=picture", content=large, headers={"content-type": form})
                )
                for _ in range(6)
            ]
            await asyncio.sleep(0.5)
            document = {"images": [{"base64": base64.b64encode(_photograph(400)).decode()}] * 8}
            for _ in range(10):
                started = time.monotonic()
                response = await client.post("/v1/classify?timeout_ms=300", json=document)
                longest = max(longest, time.monotonic() - started)
                _expect_status([response], 200, 503, 504)
            for task in drawing:
                _expect_status([await task], 200, 503, 504)

    asyncio.run(send())
    expect(longest < 1.3, f"a request with a time limit of 0.3 s took {longest:.1f} s")
    for path in (f"/v2/models/{MODEL}/versions/9/infer", "/v2/models/none/infer", f"{PIXELS}?topk=3"):
        expect(_refused_before_its_body(service, path), f"{path} was answered only after its body")
    return f"a time limit of 300 ms was answered after at most {longest * 1000:.0f} ms"


def _refused_before_its_body(service: ServedProcess, path: str) -> bool:
    """Whether a request is answered although none of the 30 MB of its body are sent."""
    with service.connect(5.0) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n".encode())
        try:
            return connection.recv(12).startswith(b"HTTP/1.1 4")
        except TimeoutError:
            return False


@check(25, "Clients: forms, types and parameters")
def clients(folder: Path) -> str:
    data = (ROOT / "models" / "pretrained" / "examples" / "trouser.png").read_bytes()
    encoded = base64.encodebytes(data)
    parts = {
        "name=\"i\"; filename*=UTF-8''%C3%A9.png": data,
        'name="i"; filename="i"\r\nContent-Transfer-Encoding: base64': encoded,
        'name="i"\r\nContent-Type: image/png': data,
    }
    with serve("--rate-limit", "100", "--rate-burst", "100") as service:
        for head, content in parts.items():
            body = f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n--x--\r\n"
            answer = _post(service, "/v1/classify?top_k=1", body, content_type="multipart/form-data; boundary=x")
            expect('"Trouser"' in answer.text, f"{head}: {answer.text}")
        for kind in ("binary/octet-stream", "image/*", ""):
            answer = _post(service, "/v1/classify?top_k=1", data, content_type=kind)
            expect('"Trouser"' in answer.text, f"{kind}: {answer.text}")
        _expect_status([_post(service, "/v1/classify", data, content_type="image/../x")], 415)
        for path, right in (("/v1/classify?topk=3", "top_k"), (f"{ENCODED}?topk=3", "classification")):
            answer = _post(service, path, data, content_type="image/png")
            expect((answer.status_code, right in answer.text) == (400, True), answer.text)
        several, form = _form([data] * 64)
        timing = _post(service, "/v1/classify", several, content_type=form).json()["timing"]
        longest = max(value for name, value in timing.items() if name.endswith("_ms"))
        expect(longest == timing["total_ms"], f"a part is longer than the total: {timing}")
    return f"{len(parts)} kinds of parts, {timing}"
