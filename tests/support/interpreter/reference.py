"""A convolution with integers, in float64, which represents all of its sums: the reference of the int8 kernels.

Behind the sums, each operation is rounded to float32, in the order that the kernels document: scale, bias, residual,
ReLU, rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from export.kernels.network import Convolution, Form, Window

Array = NDArray[Any]


def expected_forms(
    conv: Convolution, x: Array, x_scale: float, residual: Array | None, residual_scale: float
) -> dict[str, Array]:
    """The values of each form of an int8 convolution, as its kernel must store them.

    Args:
        conv: the convolution.
        x: int8 [n, height, width, channels].
        x_scale: value of one step of x.
        residual: the summand, as it is stored; None without one.
        residual_scale: value of one step of the summand.
    """
    assert conv.weight_scale is not None
    sums = F.conv2d(
        torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2),
        torch.from_numpy(conv.weight.astype(np.float64)),
        stride=conv.stride,
        padding=conv.padding,
        groups=conv.groups,
    )
    first, others = conv.forms[0], conv.forms[1:]
    step = 1.0 if first.affine is not None or first.scale is None else first.scale
    values = sums.permute(0, 2, 3, 1).numpy().astype(np.float32)
    values = values * (conv.weight_scale.astype(np.float64) * x_scale / step).astype(np.float32)
    values = values + (conv.bias.astype(np.float64) / step).astype(np.float32)
    if residual is not None:
        values = values + residual.astype(np.float32) * np.float32(residual_scale / step)
    if first.affine is not None:
        return {first.name: _second(first, values, values, 1.0)}
    stored = _stored(first, values)
    return {first.name: stored, **{form.name: _second(form, values, stored, step) for form in others}}


def expected_windows(step: Window, x: Array, x_scale: float) -> dict[str, Array]:
    """The values of each form of a pool of int8 values, as its kernel must store them; x as above."""
    values = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
    shape, size = step.forms[0].shape, (step.kernel, step.stride)
    last = [(pixels - 1) * step.stride + step.kernel for pixels in (shape.height, shape.width)]
    missing = [end - pixels - step.padding for end, pixels in zip(last, values.shape[2:], strict=True)]
    edges = (step.padding, max(missing[1], 0), step.padding, max(missing[0], 0))
    if step.is_max:
        found = F.max_pool2d(F.pad(values, edges, value=-torch.inf), *size)
        counts = torch.ones_like(found)
    else:
        found = F.avg_pool2d(F.pad(values, edges), *size) * step.kernel**2
        counts = F.avg_pool2d(F.pad(torch.ones_like(values), edges), *size) * step.kernel**2
    first, others = step.forms[0], step.forms[1:]
    unit = first.scale or 1.0
    sums = found.round().permute(0, 2, 3, 1).numpy().astype(np.float32)
    scaled = sums * np.float32(x_scale / unit) / counts.round().permute(0, 2, 3, 1).numpy().astype(np.float32)
    stored = _stored(first, scaled)
    return {first.name: stored, **{form.name: _second(form, scaled, stored, unit) for form in others}}


def _second(form: Form, values: Array, stored: Array, step: float) -> Array:
    base = stored.astype(np.float32) if form.of_first else values
    factor: Array = np.asarray([1.0]) if form.affine is None else form.affine.scale.astype(np.float64)
    shift: Array = np.asarray([0.0]) if form.affine is None else form.affine.shift.astype(np.float64)
    scaled = base * (factor * step / (form.scale or 1.0)).astype(np.float32)
    return _stored(form, scaled + (shift / (form.scale or 1.0)).astype(np.float32))


def _stored(form: Form, values: Array) -> Array:
    values = np.maximum(values, np.float32(0)) if form.relu else values
    if form.scale is None:
        return values.astype(np.float16)
    return np.clip(np.rint(values), -128, 127).astype(np.int8)
