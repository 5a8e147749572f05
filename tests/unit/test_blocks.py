"""Blocks against a few lines of tensor arithmetic, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.blocks import (
    Block,
    ConvNorm,
    ConvShape,
    LinearJoinBlock,
    PooledShortcut,
    PostActivationBlock,
    PreActivationBlock,
    ShortcutKind,
    ZeroPadShortcut,
    basic,
    bottleneck,
    bottleneck_v1,
    make_shortcut,
)

Shapes = Callable[[int, int], tuple[ConvShape, ...]]
KINDS: list[ShortcutKind] = ["A", "B", "C", "D", "none"]


def convolve(x: Tensor, conv: Any) -> Tensor:
    """Convolution as a matrix product over patches, for each group of channels."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.kernel_size[0] // 2
    patches = [F.unfold(part, kernel, padding=padding, stride=stride) for part in x.chunk(conv.groups, 1)]
    weights = conv.weight.reshape(conv.out_channels, -1).chunk(conv.groups)
    product = torch.cat([weight @ patch for weight, patch in zip(weights, patches, strict=True)], 1)
    size = (x.shape[2] + 2 * padding - kernel) // stride + 1
    product = product.reshape(len(x), conv.out_channels, size, size)
    return product if conv.bias is None else product + conv.bias[:, None, None]


def normalise(x: Tensor, norm: Any) -> Tensor:
    if isinstance(norm, nn.Identity):
        return x
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def apply_shortcut(x: Tensor, shortcut: nn.Module | None, out_channels: int) -> Tensor | float:
    if shortcut is None:
        return 0.0
    if isinstance(shortcut, nn.Identity):
        return x
    if isinstance(shortcut, ConvNorm):
        return normalise(convolve(x, shortcut.conv), shortcut.norm)
    if isinstance(shortcut, PooledShortcut):
        if not isinstance(shortcut[0], nn.Identity):
            x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
        return apply_shortcut(x, shortcut[1], out_channels)
    assert isinstance(shortcut, ZeroPadShortcut)
    strided = x[:, :, :: shortcut.stride, :: shortcut.stride]
    padded = torch.zeros(len(x), out_channels, *strided.shape[2:], dtype=x.dtype)
    padded[:, : x.shape[1]] = strided
    return padded


def randomise(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.Identity])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shapes", [basic, bottleneck, bottleneck_v1, partial(bottleneck, inner=2, groups=4)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_type", [PostActivationBlock, PreActivationBlock, LinearJoinBlock])
def test_forward_equals_arithmetic(
    block_type: Block, kind: ShortcutKind, shapes: Shapes, stride: int, norm: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    out_channels = shapes(4, stride)[-1].channels
    in_channels = out_channels if stride == 1 else out_channels // 2
    make_norm = norm if norm is nn.BatchNorm2d else lambda channels: nn.Identity()
    block = block_type(in_channels, shapes(4, stride), kind, make_norm, first=False).double().eval()
    randomise(block)
    x = torch.randn(2, in_channels, 8, 8, dtype=torch.float64)

    if isinstance(block, PreActivationBlock):
        activated = relu(normalise(x, block.norms[0]))
        z = convolve(activated, block.convs[0])
        for layer_norm, conv in zip(block.norms[1:], block.convs[1:], strict=True):
            z = convolve(relu(normalise(z, layer_norm)), conv)
        raw = isinstance(block.shortcut, nn.Identity)
        expected = z + apply_shortcut(x if raw else activated, block.shortcut, out_channels)
    else:
        z = first = normalise(convolve(x, block.convs[0].conv), block.convs[0].norm)
        for layer in block.convs[1:]:
            z = normalise(convolve(relu(z), layer.conv), layer.norm)
        joined = first if isinstance(block, LinearJoinBlock) else x
        expected = relu(z + apply_shortcut(joined, block.shortcut, out_channels))

    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_shortcut_options() -> None:
    def kinds(kind: ShortcutKind) -> list[type[nn.Module] | None]:
        same = make_shortcut(kind, 16, 16, 1, nn.BatchNorm2d)
        changed = make_shortcut(kind, 16, 32, 2, nn.BatchNorm2d)
        return [None if shortcut is None else type(shortcut) for shortcut in (same, changed)]

    assert kinds("A") == [nn.Identity, ZeroPadShortcut]
    assert kinds("B") == [nn.Identity, ConvNorm]
    assert kinds("C") == [ConvNorm, ConvNorm]
    assert kinds("D") == [nn.Identity, PooledShortcut]
    assert kinds("none") == [None, None]


def test_pooled_shortcut_averages_the_pixels_that_exist() -> None:
    """timm's `downsample_avg`: at an odd edge, over two pixels, and over one in the corner."""
    shortcut: Any = PooledShortcut(1, 1, 2, lambda channels: nn.Identity())
    nn.init.ones_(shortcut[1].conv.weight)
    nn.init.zeros_(shortcut[1].conv.bias)
    pixels = torch.arange(9.0).reshape(1, 1, 3, 3)
    torch.testing.assert_close(shortcut(pixels), torch.tensor([[[[2.0, 3.5], [6.5, 8.0]]]]))


def test_linear_join_learns_a_projection_only_where_widths_differ() -> None:
    in_basic = LinearJoinBlock(16, basic(32, 2), "B", nn.BatchNorm2d, first=False)
    in_bottleneck = LinearJoinBlock(64, bottleneck(16, 1), "B", nn.BatchNorm2d, first=False)
    assert isinstance(in_basic.shortcut, nn.Identity)
    assert isinstance(in_bottleneck.shortcut, ConvNorm)


def test_zero_padding_cannot_narrow() -> None:
    with pytest.raises(ValueError, match="use shortcut B, C or D"):
        make_shortcut("A", 32, 16, 2, nn.BatchNorm2d)
