"""Layers while a graph is read: their forms are known when all of their readers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from export.errors import UnsupportedNetwork
from export.kernels.network import Form, Shape, Step
from export.kernels.reading.values import Steps, Value


@dataclass
class LayerDraft:
    """A layer whose forms are not known yet. `make` gets its forms, and the name of a value's form."""

    name: str
    shape: Shape
    nodes: list[str]
    make: Callable[[LayerDraft, tuple[Form, ...], Callable[[Value], str]], Step]
    order: int
    """Place of its last node."""
    is_convolution: bool = False
    residual: Value | None = None
    additions: list[str] = field(default_factory=list)
    wanted: list[Steps] = field(default_factory=list)


def output_size(size: int, kernel: int, stride: int, padding: int, ceil: bool = False) -> int:
    """Pixels behind a window, in one direction."""
    last = size + 2 * padding - kernel
    count = -(-last // stride) if ceil else last // stride
    if ceil and count * stride >= size + padding:  # the last window must begin inside the image or its left padding
        count -= 1
    if last < 0:
        raise UnsupportedNetwork(f"a window of {kernel} pixels is larger than the image")
    return count + 1
