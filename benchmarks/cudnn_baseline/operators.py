"""The ONNX operators of this project's networks in float16, as functions of PyTorch tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

_TYPES = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}


class ConvRelu:
    """relu(conv(x) + bias + z), with an optional z, as one cuDNN kernel if cuDNN has one for it."""

    def __init__(self) -> None:
        self._fuses = True

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, z: Tensor | None = None, **attributes: Any) -> Tensor:
        if self._fuses:
            try:
                return self._fused(x, weight, bias, z, **attributes)
            except RuntimeError:  # if the device failed, the path below fails too
                self._fuses = False
        y = conv(x, weight, bias, **attributes)
        return torch.relu(y if z is None else y + z)

    @staticmethod
    def _fused(x: Tensor, weight: Tensor, bias: Tensor, z: Tensor | None, **attributes: Any) -> Tensor:
        geometry = attributes["strides"], _padding(attributes), attributes["dilations"], attributes["group"]
        if z is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, weight, z, 1.0, bias, *geometry)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    """Conv, as one cuDNN kernel, and one more for the bias."""
    return F.conv2d(
        x, weight, bias, attributes["strides"], _padding(attributes), attributes["dilations"], attributes["group"]
    )


def _max_pool(x: Tensor, **attributes: Any) -> Tensor:
    return F.max_pool2d(x, attributes["kernel_shape"], attributes["strides"], _padding(attributes))


def _average_pool(x: Tensor, **attributes: Any) -> Tensor:
    return F.avg_pool2d(
        x,
        attributes["kernel_shape"],
        attributes.get("strides", (1, 1)),
        _padding(attributes),
        bool(attributes.get("ceil_mode", 0)),
        bool(attributes.get("count_include_pad", 0)),
    )


def _padding(attributes: dict[str, Any]) -> tuple[int, int]:
    """Rows above and below, and columns on both sides. Other padding is refused: no file of this project has it."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise ValueError("the cuDNN baseline computes only equal padding on both sides")
    return top, left


def _gemm(a: Tensor, b: Tensor, c: Tensor, **attributes: Any) -> Tensor:
    return F.linear(a.T if attributes.get("transA") else a, b if attributes.get("transB") else b.T, c)


def _mean(x: Tensor, axes: Tensor, keepdims: int = 1, **_: Any) -> Tensor:
    return x.mean(axes.tolist(), bool(keepdims))


def _normalise(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, **attributes: Any) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, shift, eps=attributes.get("epsilon", 1e-5))


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _normalise,
    "Cast": lambda x, to: x.to(_TYPES[to]),
    "Conv": conv,
    "Div": torch.div,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "ReduceMean": _mean,
    "Relu": torch.relu,
    "Softmax": lambda x, axis: x.softmax(axis),
    "Sub": torch.sub,
    "Transpose": lambda x, perm: x.permute(*perm),
}
"""Attributes are keyword arguments."""
