"""Weights in the order in which kernels read them, in one block of memory."""

from __future__ import annotations

import numpy as np

from export.errors import UnsupportedNetwork
from export.kernels.network import Array, Convolution, Float32Array
from export.kernels.packing.layout import CHANNEL_MULTIPLE, round_up, run_length
from models.runtime.cuda_engine.plan import ALIGNMENT


class WeightStore:
    """Constants of all kernels; equal ones are stored once."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._places: dict[bytes, int] = {}

    def add(self, content: bytes) -> int:
        """Store a constant; returns its place in bytes."""
        if content not in self._places:
            self._content.extend(bytes(-len(self._content) % ALIGNMENT))
            self._places[content] = len(self._content)
            self._content.extend(content)
        return self._places[content]

    def content(self) -> bytes:
        """All constants."""
        return bytes(self._content)


def as_bytes(values: Array, element: str) -> bytes:
    """Values in the type of a kernel's pointer: i8, fp16, bf16 or fp32."""
    if element == "i8":
        return values.astype(np.int8).tobytes()
    if element == "fp16":
        return values.astype(np.float16).tobytes()
    if element == "bf16":
        return bfloat16(values).tobytes()
    return values.astype(np.float32).tobytes()


def bfloat16(values: Array) -> Array:
    """The upper halves of float32 values, rounded half to even, uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def padded_vector(values: Float32Array, size: int) -> Float32Array:
    """float32 [size]: the values, and zeros."""
    result = np.zeros(size, np.float32)
    result[: len(values)] = values
    return result


def span(conv: Convolution, block: int) -> int:
    """Input channels that a block of output channels reads.

    Raises:
        UnsupportedNetwork: the groups do not fit the block.
    """
    out, per_group = conv.weight.shape[:2]
    if conv.groups == 1:
        return round_up(per_group, CHANNEL_MULTIPLE)
    if out != per_group * conv.groups:
        raise UnsupportedNetwork(f"{conv.name}: its groups have other numbers of outputs than of inputs")
    if (block % per_group and per_group % block) or out % CHANNEL_MULTIPLE:
        raise UnsupportedNetwork(f"{conv.name}: groups of {per_group} channels do not fit blocks of {block}")
    return max(block, int(per_group))


def matrix(conv: Convolution, block: int) -> Array:
    """The weight as [out, taps * span]; groups are blocks on the diagonal, with zeros beside them.

    Args:
        conv: the convolution.
        block: output channels of a block of the kernel.
    """
    out, inside, height, width = conv.weight.shape
    size = span(conv, block)
    result = np.zeros((round_up(out, CHANNEL_MULTIPLE), height, width, size), conv.weight.dtype)
    by_tap = conv.weight.transpose(0, 2, 3, 1)
    if conv.groups == 1:
        result[:out, :, :, :inside] = by_tap
    else:
        channel = np.arange(out)
        first = channel // inside * inside - channel // size * size
        for offset in range(inside):
            result[channel, :, :, first + offset] = by_tap[channel, :, :, offset]
    return result.reshape(len(result), -1)


def pixel_matrix(conv: Convolution, channels: int) -> Array:
    """The weight of a convolution of pixels as [out, rows * run]: a tap is a whole row of the window."""
    out, inside, height, width = conv.weight.shape
    result = np.zeros((round_up(out, CHANNEL_MULTIPLE), height, run_length(width, channels)), conv.weight.dtype)
    row = np.zeros((out, height, width, channels), conv.weight.dtype)
    row[..., :inside] = conv.weight.transpose(0, 2, 3, 1)
    result[:out, :, : width * channels] = row.reshape(out, height, -1)
    return result.reshape(len(result), -1)
