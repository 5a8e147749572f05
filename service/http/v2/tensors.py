"""Tensors in the form of the protocol: raw (little-endian, row-major) behind the JSON, or as lists in the JSON."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from models.artifact.manifest import INPUT
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.core.errors import BadRequest, PayloadTooLarge
from service.http.v2.schemas import InputTensor, OutputTensor, RequestedOutput
from service.inference.top_k import top_k

FILES = "image"
"""Name of the input of image files."""


def read_images(tensor: InputTensor, raw: memoryview, shape: tuple[int, ...], max_images: int) -> UInt8Array:
    """Read the pixels in a request, uint8 [N, H, W, C].

    Args:
        tensor: the input in the JSON.
        raw: the bytes behind the JSON.
        shape: H, W, C of the model.
        max_images: most images in one request.

    Raises:
        BadRequest: the tensor does not match the model.
        PayloadTooLarge: there are too many images.
    """
    _check(tensor, INPUT, "UINT8")
    if tuple(tensor.shape[1:]) != shape or len(tensor.shape) != 4:
        raise BadRequest(f"{INPUT}: has shape {tensor.shape}, expected {[-1, *shape]}")
    _check_count(tensor.shape[0], max_images)
    if _is_raw(tensor, raw):
        if len(raw) != prod(tensor.shape):
            raise BadRequest(f"{INPUT}: {len(raw)} bytes for shape {tensor.shape}, which needs {prod(tensor.shape)}")
        return np.frombuffer(raw, np.uint8).reshape(tensor.shape)
    try:
        values = np.array(tensor.data)
    except (ValueError, OverflowError):
        raise BadRequest(f"{INPUT}: the lists in data have different lengths") from None
    if values.size != prod(tensor.shape):
        raise BadRequest(f"{INPUT}: {values.size} values for shape {tensor.shape}, which needs {prod(tensor.shape)}")
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise BadRequest(f"{INPUT}: UINT8 values are whole numbers from 0 to 255")
    return values.astype(np.uint8).reshape(tensor.shape)


def read_files(tensor: InputTensor, raw: memoryview, max_images: int) -> list[bytes]:
    """Read the image files in a request: each is its length, a little-endian uint32, and then its bytes.

    Raises:
        BadRequest: the tensor is not one of image files.
        PayloadTooLarge: there are too many images.
    """
    _check(tensor, FILES, "BYTES")
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
        raise BadRequest(f"{FILES}: has shape {tensor.shape}, expected [-1, 1] or [-1]")
    _check_count(tensor.shape[0], max_images)
    if not _is_raw(tensor, raw):
        raise BadRequest(f"{FILES}: JSON cannot hold image files: send the tensor as binary data")
    files = []
    start = 0
    while start + 4 <= len(raw):
        (length,) = struct.unpack_from("<I", raw, start)
        start += 4 + length
        files.append(bytes(raw[start - length : start]))
    if start != len(raw) or len(files) != tensor.shape[0]:
        raise BadRequest(f"{FILES}: the {len(raw)} bytes are not {tensor.shape[0]} elements, each behind its length")
    return files


def _check(tensor: InputTensor, name: str, datatype: str) -> None:
    if tensor.parameters.shared_memory_region is not None:
        raise BadRequest("shared memory is not supported: send the tensor in the body")
    if (tensor.name, tensor.datatype) != (name, datatype):
        raise BadRequest(
            f"the input is {name!r} of datatype {datatype}, not {tensor.name!r} of {tensor.datatype}; "
            "the metadata of the model describes it"
        )


def _check_count(count: int, max_images: int) -> None:
    if count == 0:
        raise BadRequest("there is no image in the request")
    if count > max_images:
        raise PayloadTooLarge(f"{count} images in one request, at most {max_images}: send them in several requests")


def _is_raw(tensor: InputTensor, raw: memoryview) -> bool:
    size = tensor.parameters.binary_data_size
    if size is None:
        if len(raw) or tensor.data is None:
            raise BadRequest(f"{tensor.name}: needs either data, or binary_data_size and bytes behind the JSON")
        return False
    if size != len(raw):
        raise BadRequest(f"{tensor.name}: binary_data_size is {size}, but {len(raw)} bytes are behind the JSON")
    return True


@dataclass(frozen=True)
class Encoded:
    """An output: its part of the JSON, and its bytes behind the JSON."""

    tensor: OutputTensor
    raw: bytes = b""


def write(requested: RequestedOutput, values: Float32Array, labels: Sequence[str], binary: bool) -> Encoded:
    """Write an output, or the most probable classes if the request wants a classification.

    Args:
        requested: the output in the request.
        values: float32 [N, ...].
        labels: names of the classes.
        binary: whether to write raw bytes if the output in the request does not set it.
    """
    binary = binary if requested.parameters.binary_data is None else requested.parameters.binary_data
    if requested.parameters.classification:
        best = [
            [f"{prediction.probability:f}:{prediction.index}:{prediction.label}" for prediction in row]
            for row in top_k(values, labels, requested.parameters.classification)
        ]
        strings = [text for row in best for text in row]
        raw = b"".join(struct.pack("<I", len(text)) + text for text in (string.encode() for string in strings))
        return _encoded(requested.name, "BYTES", [len(best), len(best[0])], strings, raw, binary)
    flat = [] if binary else values.ravel().tolist()
    return _encoded(requested.name, "FP32", list(values.shape), flat, values.astype("<f4").tobytes(), binary)


def _encoded(
    name: str, datatype: str, shape: list[int], data: list[str] | list[float], raw: bytes, binary: bool
) -> Encoded:
    if not binary:
        return Encoded(OutputTensor(name=name, datatype=datatype, shape=shape, data=data))
    parameters = {"binary_data_size": len(raw)}
    return Encoded(OutputTensor(name=name, datatype=datatype, shape=shape, parameters=parameters), raw)
