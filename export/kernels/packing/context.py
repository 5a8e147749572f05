"""The network and the layout of its tensors, for the launches of all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from export.kernels.network import Array, Form, Network
from export.kernels.packing.launches import WEIGHTS, Ref
from export.kernels.packing.layout import Layout, PixelLayout
from export.kernels.packing.weights import WeightStore, as_bytes
from export.kernels.tiles import KernelTarget, Measured

PIXELS = "prepared pixels"


@dataclass(frozen=True)
class Context:
    """A network with the layout of its tensors, for one batch size."""

    network: Network
    layouts: dict[str, Layout]
    pixels: PixelLayout
    weights: WeightStore
    half: str
    """fp16 or bf16."""
    target: KernelTarget
    batch: int
    measured: Measured

    def constant(self, values: Array, element: str = "fp32") -> Ref:
        """Store a constant; returns a pointer to it."""
        content = as_bytes(values, element)
        return Ref(WEIGHTS, element, self.weights.add(content), len(content), "read")

    def tensor(self, name: str, access: Literal["read", "write"]) -> Ref:
        """A pointer to the first image of a form; the zeros before it are out of reach."""
        layout = self.layouts[name]
        start = layout.start()
        return Ref(name, layout.element, start, layout.bytes(self.batch) - start, access)

    def form(self, name: str) -> Form:
        """The form of a name."""
        return next(form for form in self.network.forms if form.name == name)

    def scale(self, name: str) -> float:
        """The value of one step of a form; 1 in half precision."""
        return self.form(name).scale or 1.0


@dataclass(frozen=True)
class Stored:
    """The arguments of a kernel for the forms that it stores."""

    arguments: dict[str, Ref | None]
    """y, z, zscale and zshift."""
    flags: dict[str, int]
    scale: float
    """The value of one step of the kernel's results."""
    y: Layout | None
    z: Layout | None

    def strides(self) -> dict[str, int]:
        """Pixels from image to image and from row to row."""
        y, z = self.y, self.z
        return {
            "yI": y.plane if y else 0,
            "yW": y.pitch if y else 0,
            "zI": z.plane if z else 0,
            "zW": z.pitch if z else 0,
        }


def stored(context: Context, forms: tuple[Form, ...]) -> Stored:
    """The arguments for one or two forms; the first is y unless it is normalised."""
    first = forms[0] if forms[0].affine is None else None
    second = next((form for form in forms if form is not first), None)
    step = 1.0 if first is None or first.scale is None else first.scale
    arguments: dict[str, Ref | None] = {"y": None, "z": None, "zscale": None, "zshift": None}
    flags = {"RELU_Y": int(first is not None and first.relu), "RELU_Z": 0, "FROM_Y": 0}
    if first is not None:
        arguments["y"] = context.tensor(first.name, "write")
    if second is not None:
        channels, out = context.layouts[second.name].channels, second.shape.channels
        scale, shift = np.zeros((2, channels), np.float64)
        affine = second.affine
        scale[:out] = (1.0 if affine is None else affine.scale.astype(np.float64)) * step / (second.scale or 1.0)
        shift[:out] = 0.0 if affine is None else affine.shift.astype(np.float64) / (second.scale or 1.0)
        arguments |= {
            "z": context.tensor(second.name, "write"),
            "zscale": context.constant(scale),
            "zshift": context.constant(shift),
        }
        flags |= {"RELU_Z": int(second.relu), "FROM_Y": int(second.of_first)}
    y = None if first is None else context.layouts[first.name]
    z = None if second is None else context.layouts[second.name]
    return Stored(arguments, flags, step, y, z)
