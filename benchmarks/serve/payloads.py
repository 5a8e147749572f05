"""Requests as bytes, made before anything is measured: the client only writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from models.imaging import images
from models.imaging.preprocess import Preprocess, UInt8Array

MANY = 64
"""Images in a request of many."""
_BOUNDARY = "resnet-bench-boundary"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_QUALITY = 90


class NoPhotographs(Exception):
    """There is nothing to send; the message says what is expected."""


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
    """The files in one format, "JPEG" or "PNG". Those that are in it already stay as they are."""
    return [_encode(data, kind) for data in files]


def _encode(data: bytes, kind: str) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        if image.format == kind:
            return data
        buffer = io.BytesIO()
        mode = "L" if image.mode == "L" else "RGB"
        image.convert(mode).save(buffer, kind, **({"quality": _QUALITY} if kind == "JPEG" else {}))
    return buffer.getvalue()


def pixels(files: Sequence[bytes], preprocess: Preprocess) -> list[UInt8Array]:
    """Each image as the graph takes it, uint8 [H, W, C]."""
    return [preprocess.apply(images.decode(data, preprocess.mode)) for data in files]


def single(files: Sequence[bytes], kind: str, model: str) -> list[bytes]:
    """A request for each file, which is in the format `kind`."""
    return [_post(f"/v1/models/{model}/classify", f"image/{kind.lower()}", data) for data in files]


def many(files: Sequence[bytes], kind: str, model: str) -> list[bytes]:
    """One request of `MANY` images, as a form; the files are taken in turn."""
    parts = []
    for index in range(MANY):
        parts.append(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{index}"\r\n'
            f"Content-Type: image/{kind.lower()}\r\n\r\n".encode()
        )
        parts.append(files[index % len(files)] + b"\r\n")
    parts.append(f"--{_BOUNDARY}--\r\n".encode())
    return [_post(f"/v1/models/{model}/classify", f"multipart/form-data; boundary={_BOUNDARY}", b"".join(parts))]


def tensors(arrays: Sequence[UInt8Array], model: str) -> list[bytes]:
    """A request of the Open Inference Protocol for each image, binary both ways."""
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
        requests.append(_post(f"/v2/models/{model}/infer", "application/octet-stream", body, length))
    return requests


def _post(path: str, content_type: str, body: bytes, headers: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
