"""Tensors in the form of the protocol: raw (little-endian, row-major) behind the JSON, or as lists in the JSON."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from models.artifact.manifest import INPUT
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.core.errors import BadRequest, PayloadTooLarge
from service.http.v2.schemas import InputTensor, OutputTensor, RequestedOutput
from service.inference.top_k import top_k

FILES = "image"
"""Name of the input of image files."""
_SLICE = 65536
"""Numbers that are read at a time, in about 2 ms; other threads run in between."""


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
    return _from_lists(tensor.data or [], tensor.shape)


def _from_lists(data: list[Any], shape: list[int]) -> UInt8Array:
    """Read pixels in JSON, in one list or in nested ones. Checks lengths and kinds before it makes an array."""
    lengths: list[int] = []
    first: Any = data
    while isinstance(first, list):
        lengths.append(len(first))
        first = first[0] if first else None
    if prod(lengths) != prod(shape):
        raise BadRequest(f"{INPUT}: {prod(lengths)} values for shape {shape}, which needs {prod(shape)}")
    pixels = bytearray()
    _collect(data, lengths, pixels)
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _collect(values: list[Any], lengths: list[int], pixels: bytearray) -> None:
    """Append the values in nested lists with these lengths."""
    if len(values) != lengths[0]:
        raise BadRequest(f"{INPUT}: the lists in data have different lengths")
    if len(lengths) > 1:
        for inner in values:
            if not isinstance(inner, list):
                raise BadRequest(f"{INPUT}: the lists in data have different lengths")
            _collect(inner, lengths[1:], pixels)
        return
    for start in range(0, len(values), _SLICE):
        part = values[start : start + _SLICE]
        try:
            if set(map(type, part)) != {int}:  # `bytes` also takes booleans
                raise ValueError
            pixels += bytes(part)
        except ValueError:
            raise BadRequest(f"{INPUT}: UINT8 values are whole numbers from 0 to 255") from None


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
    files: list[bytes] = []
    start = 0
    while start + 4 <= len(raw) and len(files) < tensor.shape[0]:
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


_NO_BYTES = memoryview(b"")


@dataclass(frozen=True)
class Encoded:
    """An output: its part of the JSON, and its values in the JSON or behind it."""

    tensor: OutputTensor
    """Without data."""
    data: Float32Array | list[str] | None = None
    """Values in the JSON, float32 [values] or strings; None if they are behind it."""
    raw: memoryview = _NO_BYTES
    """Bytes behind the JSON."""

    @property
    def count(self) -> int:
        """Number of values in the JSON."""
        return 0 if self.data is None else len(self.data)

    def values(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Some of the values in the JSON."""
        part = () if self.data is None else self.data[start:stop]
        return part.tolist() if isinstance(part, np.ndarray) else list(part)


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
        shape = [len(best), len(best[0])]
        if not binary:
            return Encoded(OutputTensor(name=requested.name, datatype="BYTES", shape=shape), strings)
        elements = b"".join(struct.pack("<I", len(text)) + text for text in (string.encode() for string in strings))
        return _binary(requested.name, "BYTES", shape, memoryview(elements))
    shape = list(values.shape)
    if not binary:
        return Encoded(OutputTensor(name=requested.name, datatype="FP32", shape=shape), values.ravel())
    raw = np.ascontiguousarray(values, "<f4").reshape(-1).data.cast("B")
    return _binary(requested.name, "FP32", shape, raw)


def _binary(name: str, datatype: str, shape: list[int], raw: memoryview) -> Encoded:
    parameters = {"binary_data_size": len(raw)}
    return Encoded(OutputTensor(name=name, datatype=datatype, shape=shape, parameters=parameters), None, raw)
