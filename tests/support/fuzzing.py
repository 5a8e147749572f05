"""Hostile connections: strategies that draw them, and the exchange with a server that judges its answers.

A connection is all bytes that a client sends before it closes its side.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import socket
from collections.abc import Callable, Mapping

import numpy as np
from hypothesis import strategies as st
from PIL import Image

SECONDS = 20.0
"""Time after which an answer counts as missing: twice the default time limit of a request."""
_PERMITTED = {503, 504}
_MAX_MUTATIONS = 6

Strategy = st.SearchStrategy[bytes]


class Finding(Exception):
    """A connection that the server does not handle as it should; the message says why."""


def exchange(port: int, sent: bytes) -> list[int]:
    """Send a connection to a server on this machine. Returns the statuses of its responses.

    Raises:
        Finding: a response has a status of 500 or above besides 503 and 504, or the connection stays open.
    """
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(1 << 16):
                received += data
        except TimeoutError:
            raise Finding(f"the connection is open after {SECONDS:.0f} s") from None
        except OSError:
            pass  # the server closed the connection before it read everything
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) [^\r\n]*\r\n", received)]
    for status in statuses:
        if status >= 500 and status not in _PERMITTED:
            raise Finding(f"status {status}: {bytes(received[-500:])!r}")
    return statuses


def _mutated(data: Strategy) -> Strategy:
    """Data in which some bytes are replaced, removed, repeated or inserted; often none."""
    piece = st.one_of(st.binary(max_size=8), st.sampled_from([b"\r\n", b"\0", b"\xff" * 4, b":", b'"', b"0" * 64]))
    mutation = st.tuples(st.integers(0, 1 << 16), st.integers(0, 16), piece)
    return st.one_of(data, st.builds(_apply, data, st.lists(mutation, max_size=_MAX_MUTATIONS)))


def _apply(data: bytes, mutations: list[tuple[int, int, bytes]]) -> bytes:
    for position, removed, inserted in mutations:
        at = position % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    return data


def _post(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def _encode_image(image_format: str, mode: str = "RGB", **options: object) -> bytes:
    target = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(target, image_format, **options)
    return target.getvalue()


_PNG = _encode_image("PNG", "L")
_EXIF = Image.Exif()
_EXIF[0x0112] = 6
IMAGES = (
    _PNG,
    _encode_image("PNG"),
    _encode_image("PNG", "P"),
    _encode_image("PNG", "LA"),
    _encode_image("PNG", "I;16"),
    _encode_image("JPEG", exif=_EXIF.tobytes()),
    _encode_image("JPEG", progressive=True),
    _encode_image("JPEG", "CMYK"),
    _encode_image("WEBP"),
    _encode_image("WEBP", lossless=True, exif=_EXIF.tobytes()),
    _encode_image("GIF", "P"),
    _encode_image("BMP"),
    _encode_image("TIFF"),
    _encode_image("TIFF", compression="tiff_lzw"),
    _encode_image("TIFF", compression="jpeg"),
    _encode_image("AVIF"),
)

# Heads and framing of bodies.

_METHODS = st.sampled_from(
    ["GET", "POST", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "CONNECT", "PRI", "get"]
)
_TARGETS = st.one_of(
    st.sampled_from(
        [
            "/healthz",
            "/v1/classify",
            "/v1/classify?top_k=3",
            "/v1/models",
            "/v2",
            "/v2/models/fashion-mnist-resnet20/infer",
            "/metrics",
            "/",
            "*",
            "//",
            "/%00",
            "/../../etc/passwd",
            "http://x/healthz",
            "x:80",
            "/v1/models/" + "a" * 3000,
        ]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=40).map(lambda text: "/" + text),
)
_LENGTHS = [
    "0",
    "1",
    "5",
    "-1",
    "+5",
    "5, 5",
    "5,6",
    "0" * 300 + "5",
    "99999999999999999999",
    "0x5",
    "",
    " 5 ",
    "5;q=1",
]
_HEADERS = st.one_of(
    st.tuples(st.just("Content-Length"), st.sampled_from(_LENGTHS)),
    st.tuples(
        st.just("Transfer-Encoding"),
        st.sampled_from(
            ["chunked", "identity", "gzip, chunked", "chunked, chunked", "xchunked", "\tchunked", "CHUNKED"]
        ),
    ),
    st.tuples(
        st.just("Connection"), st.sampled_from(["close", "keep-alive", "Upgrade", "Upgrade, HTTP2-Settings", ""])
    ),
    st.tuples(st.just("Upgrade"), st.sampled_from(["h2c", "websocket", "TLS/1.0", ""])),
    st.tuples(st.just("Expect"), st.sampled_from(["100-continue", "200-ok", ""])),
    st.tuples(
        st.just("Content-Type"), st.sampled_from(["image/png", "application/json", "multipart/form-data", "x", ""])
    ),
    st.tuples(st.just("Content-Encoding"), st.sampled_from(["gzip", "deflate", "br", "gzip, gzip", "identity", ""])),
    st.tuples(st.just("Accept"), st.sampled_from(["application/x-ndjson", "*/*", "q=", ""])),
    st.tuples(st.just("traceparent"), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)),
    st.tuples(st.just("X-Request-Id"), st.text(st.characters(min_codepoint=9, max_codepoint=255), max_size=200)),
    st.tuples(st.just("X-Forwarded-For"), st.sampled_from(["1.2.3.4", "::1", "a" * 500, ",,,", ""])),
    st.tuples(
        st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=20),
        st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40),
    ),
)
_CHUNK_SIZES = ["0", "1", "5", "-1", "ffffffffffffffff", "5;x=y", "5;" + "e" * 300, "", "g", " 5"]


def _chunks(pieces: list[tuple[str, bytes]], trailer: str) -> bytes:
    return b"".join(size.encode() + b"\r\n" + data + b"\r\n" for size, data in pieces) + trailer.encode("latin-1")


_BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=64),
    st.just(_PNG),
    st.builds(
        _chunks,
        st.lists(st.tuples(st.sampled_from(_CHUNK_SIZES), st.binary(max_size=8)), max_size=5),
        st.sampled_from(["", "0\r\n\r\n", "0\r\nx: y\r\n\r\n", "0\r\nContent-Length: 5\r\n\r\n", "0\r\n" + "x" * 200]),
    ),
)


def _request(method: str, target: str, version: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{method} {target} {version}\r\nHost: x\r\n{lines}\r\n".encode("latin-1", "replace") + body


_VERSIONS = st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9", ""])
_REQUESTS = st.builds(_request, _METHODS, _TARGETS, _VERSIONS, st.lists(_HEADERS, max_size=6), _BODIES)
_FRAMING = _mutated(st.lists(_REQUESTS, min_size=1, max_size=4).map(b"".join))

# Forms.

_DISPOSITIONS = st.sampled_from(
    [
        'form-data; name="image"; filename="a.png"',
        'form-data; name="images"; filename="a.png"',
        "form-data; name=image; filename*=UTF-8''%e2%82%ac.png",
        "form-data; name=image; filename*=nonsense''%zz",
        'form-data; name="image"',
        "form-data",
        "attachment",
        'form-data; name="' + "n" * 500 + '"',
        "",
    ]
)
_ENCODINGS = st.sampled_from(["", "", "base64", "quoted-printable", "binary", "8bit", "x"])
_TYPES = st.sampled_from(["image/png", "application/octet-stream", "text/plain", "image/../x", ""])
_CONTENTS = st.one_of(
    st.sampled_from([_PNG, base64.b64encode(_PNG), b"", b"=" * 10]), st.binary(max_size=100), st.sampled_from(IMAGES)
)
_BOUNDARIES = st.sampled_from(["b", "b" * 70, "b" * 300, "", "a b", '"b"', "--", "'()+_,-./:=?"])


def _part(boundary: str, disposition: str, encoding: str, kind: str, content: bytes) -> bytes:
    head = f"--{boundary}\r\n"
    head += f"Content-Disposition: {disposition}\r\n" if disposition else ""
    head += f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    head += f"Content-Type: {kind}\r\n" if kind else ""
    return head.encode() + b"\r\n" + content + b"\r\n"


def _form_body(boundary: str, parts: list[tuple[str, str, str, bytes]], end: str) -> bytes:
    return b"".join(_part(boundary, *part) for part in parts) + end.replace("b", boundary).encode()


def _form_post(query: str, boundary: str, body: bytes) -> bytes:
    return _post(f"/v1/classify{query}", {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body)


_QUERIES = st.sampled_from(["", "?top_k=2", "?top_k=0", "?timeout_ms=50", "?cam=picture", "?embedding=true", "?x=y"])
_PARTS = st.lists(st.tuples(_DISPOSITIONS, _ENCODINGS, _TYPES, _CONTENTS), max_size=5)
_ENDS = st.sampled_from(["--b--\r\n", "--b--\r\n", "--b--", "--b", "", "--b--\r\ntrailing"])
_MULTIPART = _BOUNDARIES.flatmap(
    lambda boundary: st.builds(
        _form_post, _QUERIES, st.just(boundary), _mutated(st.builds(_form_body, st.just(boundary), _PARTS, _ENDS))
    )
)

# JSON.

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", base64.b64encode(_PNG).decode(), "data:image/png;base64," + base64.b64encode(_PNG).decode()]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


def _object(known: Mapping[str, st.SearchStrategy[object]]) -> st.SearchStrategy[dict[str, object]]:
    """Objects that have some of the known fields, mostly of the right kind, and some unknown ones."""
    fields = {name: st.one_of(value, value, value, _VALUES) for name, value in known.items()}
    some = st.fixed_dictionaries({}, optional={**fields, "unknown": _VALUES})
    return st.one_of(st.fixed_dictionaries(dict(known)), some)


_IMAGE = st.sampled_from(IMAGES).map(lambda data: {"base64": base64.b64encode(data).decode()})
_V1 = _object({"images": st.lists(st.one_of(_IMAGE, _IMAGE, _VALUES), min_size=1, max_size=4)})
_VALID_TENSOR = {"name": "images", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [7] * 784}
_TENSOR = _object(
    {
        "name": st.sampled_from(["images", "x", ""]),
        "shape": st.lists(st.sampled_from([1, 2, 28, 0, -1, 1 << 40, 3]), max_size=5),
        "datatype": st.sampled_from(["UINT8", "FP32", "BYTES", "BOOL", "INT64", "FP16", "x"]),
        "data": st.one_of(st.lists(st.integers(-1, 300), max_size=60), st.just([7] * 784), st.just([[0.5] * 28] * 28)),
        "parameters": _object({"binary_data_size": st.integers(-5, 1 << 40)}),
    }
)
_V2 = _object(
    {
        "id": st.text(max_size=10),
        "inputs": st.one_of(
            st.just([_VALID_TENSOR]),
            st.builds(lambda changes: [{**_VALID_TENSOR, **changes}], _TENSOR),
            st.lists(_TENSOR, max_size=3),
        ),
        "outputs": st.lists(
            _object(
                {
                    "name": st.sampled_from(["probabilities", "logits", "embedding", "feature_map", "x"]),
                    "parameters": _object({"binary_data": st.booleans(), "classification": st.integers(-1, 20)}),
                }
            ),
            max_size=3,
        ),
        "parameters": _object({"timeout": st.integers(-1, 1 << 40), "priority": st.integers(-1, 5)}),
    }
)


def _json_body(document: object, form: str) -> bytes:
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    return {"plain": text, "cut": text[: len(text) // 2], "deep": b"[" * 5000 + text}[form]


def _json_post(path: str, body: bytes, compressed: bool, extra: int | None, raw: bytes) -> bytes:
    headers = {"Content-Type": "application/json"}
    if compressed:
        headers["Content-Encoding"] = "gzip"
    if extra is not None:
        headers["Inference-Header-Content-Length"] = str(len(body) + extra)
    return _post(path, headers, gzip.compress(body + raw) if compressed else body + raw)


_PATHS_V1 = st.sampled_from(["/v1/classify", "/v1/classify?top_k=3", "/v1/classify?cam=true"])
_PATHS_V2 = st.sampled_from(
    [
        "/v2/models/fashion-mnist-resnet20/infer",
        "/v2/models/x/infer",
        "/v2/models/fashion-mnist-resnet20/versions/1/infer",
    ]
)
_FORMS = st.sampled_from(["plain", "plain", "plain", "plain", "cut", "deep"])
_ENCODED = b'{"inputs":[{"name":"image","shape":[1,1],"datatype":"BYTES","parameters":{"binary_data_size":%d}}]}' % (
    len(_PNG) + 4
)
_FILE = len(_PNG).to_bytes(4, "little") + _PNG
_RAW = st.one_of(st.just(b""), st.binary(max_size=40), st.just(bytes(784)))
_EXTRAS = st.one_of(st.none(), st.none(), st.sampled_from([0, 0, 1, -1, -1000]))
_JSON = st.one_of(
    st.builds(
        _json_post,
        _PATHS_V1,
        _mutated(st.builds(_json_body, st.one_of(_V1, _V1, _VALUES), _FORMS)),
        st.booleans(),
        st.none(),
        st.just(b""),
    ),
    st.builds(
        _json_post,
        _PATHS_V2,
        _mutated(st.builds(_json_body, st.one_of(_V2, _V2, _VALUES), _FORMS)),
        st.booleans(),
        _EXTRAS,
        _RAW,
    ),
    st.builds(
        _json_post,
        st.just("/v2/models/fashion-mnist-resnet20-encoded/infer"),
        _mutated(st.just(_ENCODED)),
        st.booleans(),
        st.sampled_from([0, 0, 0, 1, -1]),
        _mutated(st.just(_FILE)),
    ),
)

# Images.


def _image_post(query: str, image: bytes) -> bytes:
    return _post(f"/v1/classify{query}", {"Content-Type": "image/*"}, image)


_PICTURES = st.builds(_image_post, _QUERIES, _mutated(st.sampled_from(IMAGES)))

TARGETS: Mapping[str, Callable[[], Strategy]] = {
    "framing": lambda: _FRAMING,
    "multipart": lambda: _MULTIPART,
    "json": lambda: _JSON,
    "images": lambda: _PICTURES,
}
"""Targets of the fuzzer, each with its strategy."""
