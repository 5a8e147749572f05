"""HTTP requests as bytes, made before the measurement: the client only writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from models.imaging import images
from models.imaging.preprocess import Preprocess, UInt8Array

MANY = 64
"""Images per request of the kind `many`."""
_BOUNDARY = "benchmark-boundary"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_QUALITY = 90


class NoPhotographs(Exception):
    """There are no files to send; the message says which are expected."""


def photographs(folder: Path) -> list[bytes]:
    """The JPEG and PNG files of a folder, by name.

    Raises:
        NoPhotographs: there are none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    if not found:
        raise NoPhotographs(f"{folder}: no folder with JPEG or PNG files")
    return [path.read_bytes() for path in found]


def encoded(files: Sequence[bytes], kind: str) -> list[bytes]:
    """The files in one format, "JPEG" or "PNG"; files of that format are not encoded again."""
    return [_encode(data, kind) for data in files]


def _encode(data: bytes, kind: str) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        if image.format == kind:
            return data
        buffer = io.BytesIO()
        mode = "L" if image.mode == "L" else "RGB"
        image.convert(mode).save(buffer, kind, **({"quality": _QUALITY} if kind == "JPEG" else {}))
    return buffer.getvalue()


def resized(files: Sequence[bytes], width: int, height: int) -> list[bytes]:
    """The files as colour JPEG files of one size in pixels."""
    made = []
    for data in files:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").resize((width, height)).save(buffer, "JPEG", quality=_QUALITY)
        made.append(buffer.getvalue())
    return made


def pixels(files: Sequence[bytes], preprocess: Preprocess) -> list[UInt8Array]:
    """Each image as input of the graph, uint8 [H, W, C]."""
    return [preprocess.apply(images.decode(data, preprocess.mode)) for data in files]


def single(files: Sequence[bytes], kind: str, model: str) -> list[bytes]:
    """One request per file; the files have the format `kind`."""
    return [post(f"/v1/models/{model}/classify", f"image/{kind.lower()}", data) for data in files]


def many(files: Sequence[bytes], kind: str, model: str) -> list[bytes]:
    """One request of `MANY` images as a form, from the files in turn."""
    parts = []
    for index in range(MANY):
        parts.append(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{index}"\r\n'
            f"Content-Type: image/{kind.lower()}\r\n\r\n".encode()
        )
        parts.append(files[index % len(files)] + b"\r\n")
    parts.append(f"--{_BOUNDARY}--\r\n".encode())
    return [post(f"/v1/models/{model}/classify", f"multipart/form-data; boundary={_BOUNDARY}", b"".join(parts))]


def tensors(arrays: Sequence[UInt8Array], model: str) -> list[bytes]:
    """One request of the Open Inference Protocol per image, with binary input and output."""
    requests = []
    for array in arrays:
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "images",
                        "shape": [1, *array.shape],
                        "datatype": "UINT8",
                        "parameters": {"binary_data_size": array.nbytes},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        length = f"Inference-Header-Content-Length: {len(head)}\r\n"
        body = head + array.tobytes()
        requests.append(post(f"/v2/models/{model}/infer", "application/octet-stream", body, length))
    return requests


def post(path: str, content_type: str, body: bytes, headers: str = "") -> bytes:
    """An HTTP request; `headers` are further header lines, each with its line end."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
