"""Residual blocks: a few convolutions, and a shortcut around them.

Shapes are NCHW. A block is described by its convolutions from first to last (`ConvShape`); the three classes differ
only in the places of normalisation and ReLU around the addition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

ShortcutKind = Literal["A", "B", "C", "D", "none"]
"""He et al. 2016a, section 4.1: identity with zero padding (A), projection where the shape changes (B),
projection everywhere (C), and no shortcut at all (a plain network). D is B with an average pool in place of the stride
(He et al. 2019, "Bag of Tricks for Image Classification", Fig. 2c)."""

Norm = Callable[[int], nn.Module]
"""Creates the normalisation of a number of channels; `nn.Identity` for none."""


@dataclass(frozen=True)
class ConvShape:
    """One convolution: a square kernel, padded so that stride 1 keeps the size."""

    kernel: int
    channels: int
    stride: int = 1
    groups: int = 1
    """Parts that the channels are divided into; a filter sees the inputs of its own part only."""


def basic(width: int, stride: int) -> tuple[ConvShape, ...]:
    """Two 3x3 convolutions (He et al. 2016a, Fig. 5 left)."""
    return ConvShape(3, width, stride), ConvShape(3, width)


def bottleneck(width: int, stride: int, *, inner: int = 1, groups: int = 1) -> tuple[ConvShape, ...]:
    """1x1, 3x3, 1x1 with four times the width at the end, the stride in the 3x3 (torchvision's "v1.5").

    Args:
        width: channels of a ResNet's 3x3 convolution.
        stride: stride of the block.
        inner: channels of the 3x3 convolution in multiples of `width` (Zagoruyko and Komodakis 2016).
        groups: groups of the 3x3 convolution (Xie et al. 2017, "cardinality").
    """
    return ConvShape(1, inner * width), ConvShape(3, inner * width, stride, groups), ConvShape(1, 4 * width)


def bottleneck_v1(width: int, stride: int) -> tuple[ConvShape, ...]:
    """The bottleneck as first published, the stride in the first 1x1 (He et al. 2016a, Fig. 5 right)."""
    return ConvShape(1, width, stride), ConvShape(3, width), ConvShape(1, 4 * width)


class ConvNorm(nn.Module):
    """A convolution and its normalisation: z in the notation a = relu(z). It has a bias only without a norm."""

    def __init__(self, in_channels: int, shape: ConvShape, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(shape.channels)
        self.conv = _conv(in_channels, shape, bias=isinstance(self.norm, nn.Identity))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


class ZeroPadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that the input lacks."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.out_channels - self.in_channels))


class PooledShortcut(nn.Sequential):
    """Option D: the mean of `stride` x `stride` pixels, and a projection.

    At an odd edge the mean is over the pixels that exist, as in timm and MXNet Gluon. Without a stride, the first
    module does nothing.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        super().__init__(pool, ConvNorm(in_channels, ConvShape(1, out_channels), norm))


def make_shortcut(kind: ShortcutKind, in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module | None:
    """The shortcut over one block; None for a plain network.

    Raises:
        ValueError: option A for a block with fewer output than input channels.
    """
    if kind == "none":
        return None
    changes_shape = stride != 1 or in_channels != out_channels
    if kind == "C" or (kind == "B" and changes_shape):
        return ConvNorm(in_channels, ConvShape(1, out_channels, stride), norm)
    if not changes_shape:
        return nn.Identity()
    if kind == "D":
        return PooledShortcut(in_channels, out_channels, stride, norm)
    if out_channels < in_channels:
        raise ValueError(f"zero padding cannot take {in_channels} channels to {out_channels}: use shortcut B, C or D")
    return ZeroPadShortcut(in_channels, out_channels, stride)


class PostActivationBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), the block of He et al. 2016a (Eqs. 1 and 2); plain without a shortcut."""

    def __init__(
        self, in_channels: int, shapes: Sequence[ConvShape], shortcut: ShortcutKind, norm: Norm, *, first: bool
    ) -> None:
        super().__init__()
        self.convs = _chain(in_channels, shapes, norm)
        self.shortcut = make_shortcut(shortcut, in_channels, shapes[-1].channels, _stride(shapes), norm)

    def forward(self, x: Tensor) -> Tensor:
        z = self.convs[0](x)
        for conv in self.convs[1:]:
            z = conv(F.relu(z))
        if self.shortcut is not None:
            z = z + self.shortcut(x)
        return F.relu(z)


class LinearJoinBlock(nn.Module):
    """a[l+2] = relu(z[l+2] + W_s z[l+1]): the shortcut begins before the first ReLU, so both terms are linear.

    W_s is the identity if z[l+1] and z[l+2] have the same shape, and a learned 1x1 convolution otherwise (in a
    bottleneck). `shortcut` "C" learns it everywhere, "none" gives the plain block.
    """

    def __init__(
        self, in_channels: int, shapes: Sequence[ConvShape], shortcut: ShortcutKind, norm: Norm, *, first: bool
    ) -> None:
        super().__init__()
        self.convs = _chain(in_channels, shapes, norm)
        self.shortcut = make_shortcut(shortcut, shapes[0].channels, shapes[-1].channels, _stride(shapes[1:]), norm)

    def forward(self, x: Tensor) -> Tensor:
        joined = z = self.convs[0](x)
        for conv in self.convs[1:]:
            z = conv(F.relu(z))
        if self.shortcut is not None:
            z = z + self.shortcut(joined)
        return F.relu(z)


class PreActivationBlock(nn.Module):
    """y = x + F(x), with normalisation and ReLU before each convolution (He et al. 2016b, Fig. 4e).

    The shortcut takes the activated input in the first block of the network and if it changes the shape, and the raw
    input otherwise (He et al. 2016b, appendix).
    """

    def __init__(
        self, in_channels: int, shapes: Sequence[ConvShape], shortcut: ShortcutKind, norm: Norm, *, first: bool
    ) -> None:
        super().__init__()
        widths = [in_channels, *(shape.channels for shape in shapes)]
        self.norms = nn.ModuleList(norm(width) for width in widths[:-1])
        bias = isinstance(self.norms[0], nn.Identity)
        self.convs = nn.ModuleList(_conv(width, shape, bias=bias) for width, shape in zip(widths, shapes, strict=False))
        # No normalisation on the shortcut: the next block normalises the sum.
        self.shortcut = make_shortcut(shortcut, in_channels, shapes[-1].channels, _stride(shapes), nn.Identity)
        self.shares_activation = first or not isinstance(self.shortcut, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norms[0](x))
        z = self.convs[0](activated)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            z = conv(F.relu(norm(z)))
        if self.shortcut is None:
            return z  # type: ignore[no-any-return]
        return z + self.shortcut(activated if self.shares_activation else x)  # type: ignore[no-any-return]


Block = type[PostActivationBlock] | type[PreActivationBlock] | type[LinearJoinBlock]


def _conv(in_channels: int, shape: ConvShape, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, shape.channels, shape.kernel, shape.stride, shape.kernel // 2, groups=shape.groups, bias=bias
    )


def _chain(in_channels: int, shapes: Sequence[ConvShape], norm: Norm) -> nn.ModuleList:
    widths = [in_channels, *(shape.channels for shape in shapes)]
    return nn.ModuleList(ConvNorm(width, shape, norm) for width, shape in zip(widths, shapes, strict=False))


def _stride(shapes: Sequence[ConvShape]) -> int:
    return math.prod(shape.stride for shape in shapes)
