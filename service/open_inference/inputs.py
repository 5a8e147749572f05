"""The input of an inference: pixels or image files, as raw bytes (little-endian, row-major) or as values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from models.artifact.manifest import INPUT
from models.imaging.preprocess import UInt8Array
from service.core.errors import BadRequest, PayloadTooLarge

FILES = "image"
"""Name of the input of image files."""
_MAX_VALUES = 4096
"""Most values that are read on the event loop."""
_SLICE = 65536
"""Numbers that are read at a time, in about 2 ms; other threads run in between."""


@dataclass(frozen=True, slots=True)
class Input:
    """The input in a request. Either `raw` or `values` is set."""

    name: str
    datatype: str
    shape: Sequence[int]
    raw: memoryview | None = None
    """All elements as bytes; files are behind their lengths, little-endian uint32."""
    values: Sequence[Any] | None = None
    """Numbers, in one list or in nested ones; or files, bytes each."""

    @property
    def is_slow(self) -> bool:
        """Whether reading the pixels takes too long for the event loop."""
        return self.values is not None and prod(self.shape) > _MAX_VALUES


def read_images(tensor: Input, shape: tuple[int, ...], max_images: int) -> UInt8Array:
    """Read the pixels in a request, uint8 [N, H, W, C].

    Args:
        tensor: the input.
        shape: H, W, C of the model.
        max_images: most images in one request.

    Raises:
        BadRequest: the tensor does not match the model.
        PayloadTooLarge: there are too many images.
    """
    _check(tensor, INPUT, "UINT8")
    if tuple(tensor.shape[1:]) != shape or len(tensor.shape) != 4:
        raise BadRequest(f"{INPUT}: has shape {list(tensor.shape)}, expected {[-1, *shape]}")
    _check_count(tensor.shape[0], max_images)
    if tensor.raw is None:
        return _from_lists(tensor.values or [], tensor.shape)
    if len(tensor.raw) != prod(tensor.shape):
        raise BadRequest(
            f"{INPUT}: {len(tensor.raw)} bytes for shape {list(tensor.shape)}, which needs {prod(tensor.shape)}"
        )
    return np.frombuffer(tensor.raw, np.uint8).reshape(tensor.shape)


def _from_lists(data: Sequence[Any], shape: Sequence[int]) -> UInt8Array:
    """Read pixels in one list or in nested ones. Checks lengths and kinds before it makes an array."""
    lengths = [len(data)]
    first: Any = data[0] if len(data) else None
    while isinstance(first, list):
        lengths.append(len(first))
        first = first[0] if first else None
    if prod(lengths) != prod(shape):
        raise BadRequest(f"{INPUT}: {prod(lengths)} values for shape {list(shape)}, which needs {prod(shape)}")
    pixels = bytearray()
    _collect(data, lengths, pixels)
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _collect(values: Sequence[Any], lengths: list[int], pixels: bytearray) -> None:
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


def read_files(tensor: Input, max_images: int) -> list[bytes]:
    """Read the image files in a request.

    Raises:
        BadRequest: the tensor is not one of image files.
        PayloadTooLarge: there are too many images.
    """
    _check(tensor, FILES, "BYTES")
    shape = list(tensor.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise BadRequest(f"{FILES}: has shape {shape}, expected [-1, 1] or [-1]")
    _check_count(shape[0], max_images)
    if tensor.raw is not None:
        return _split(tensor.raw, shape[0])
    files = tensor.values or []
    if not all(isinstance(file, bytes) for file in files):
        raise BadRequest(f"{FILES}: JSON cannot hold image files: send the tensor as binary data")
    if len(files) != shape[0]:
        raise BadRequest(f"{FILES}: {len(files)} values for shape {shape}, which needs {shape[0]}")
    return list(files)


def _split(raw: memoryview, count: int) -> list[bytes]:
    """The files, each of which is behind its length."""
    files: list[bytes] = []
    start = 0
    while start + 4 <= len(raw) and len(files) < count:
        (length,) = struct.unpack_from("<I", raw, start)
        start += 4 + length
        files.append(bytes(raw[start - length : start]))
    if start != len(raw) or len(files) != count:
        raise BadRequest(f"{FILES}: the {len(raw)} bytes are not {count} elements, each behind its length")
    return files


def _check(tensor: Input, name: str, datatype: str) -> None:
    if (tensor.name, tensor.datatype) != (name, datatype):
        raise BadRequest(
            f"the input is {name!r} of datatype {datatype}, not {tensor.name!r} of {tensor.datatype}; "
            "the metadata of the model describes it"
        )


def _check_count(count: int, max_images: int) -> None:
    if count <= 0:
        raise BadRequest("there is no image in the request")
    if count > max_images:
        raise PayloadTooLarge(f"{count} images in one request, at most {max_images}: send them in several requests")
