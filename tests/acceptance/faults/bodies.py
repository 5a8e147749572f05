"""Request bodies and answers: JSON, compression, heat maps, large answers, and what clients send."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Sequence

import httpx

from tests.acceptance.faults.case import attack, expect
from tests.acceptance.faults.served import Served

MODEL = "fashion-mnist-resnet20"
PIXELS = f"/v2/models/{MODEL}/infer"
ENCODED = f"/v2/models/{MODEL}-encoded/infer"
JSON = {"content-type": "application/json"}
MEGABYTE = 1_000_000


def _post(service: Served, path: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(service.url + path, content=content, headers=JSON | named, timeout=60.0)


def _together(service: Served, count: int, path: str, content: bytes, **headers: str) -> Sequence[httpx.Response]:
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
def json_of_wrong_elements(service: Served) -> str:
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
    within_bound = gzip.compress(_elements('{"images":', "{}", "}", 340_000))
    _expect_status(_together(service, 20, "/v1/classify", within_bound, content_encoding="gzip"), 400)
    return f"{sum(map(len, bodies.values()))} bodies as they are and compressed, and 20 at once, are refused"


@attack(2, "Values of the wrong kind in a JSON tensor")
def values_of_the_wrong_kind(service: Served) -> str:
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
def compressed_bodies(service: Served) -> str:
    bomb = gzip.compress(bytes(60 * MEGABYTE), 9)
    answers = _together(service, 30, "/v1/classify", bomb, content_encoding="gzip", content_type="image/png")
    _expect_status(answers, 422, 503)
    text = gzip.compress(b'{"images":[{"base64":"' + base64.b64encode(bytes(45 * MEGABYTE)) + b'"}]}')
    _expect_status(_together(service, 20, "/v1/classify", text, content_encoding="gzip"), 422, 503, 504)
    _expect_status(_together(service, 20, PIXELS, bomb, content_encoding="deflate"), 413, 503)
    return f"20 to 30 bodies of {len(bomb) // 1000} kB at once, which hold 60 MB each"
