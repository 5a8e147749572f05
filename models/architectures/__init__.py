"""The table of architectures: every network of the project is one row.

To add a network, add a row here, or a module that adds rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from models.architectures.blocks import (
    ConvShape,
    LinearJoinBlock,
    PreActivationBlock,
    basic,
    bottleneck,
    bottleneck_v1,
)
from models.architectures.resnet import ResNet, Variant
from models.suggestions import closest

__all__ = ["VARIANTS", "ResNet", "UnknownArchitecture", "Variant", "build"]

_IMAGENET = (64, 128, 256, 512)
_CIFAR = (16, 32, 64)

_DEPTHS = {
    10: (1, 1, 1, 1), 14: (1, 1, 1, 1), 18: (2, 2, 2, 2), 26: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
    101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3),
}  # fmt: skip
"""Blocks of each stage by the number of layers: He et al. 2016a, Table 1; 10, 14, 26 and 200 as in timm."""
_BASIC = (10, 18, 34)
"""Numbers of layers with basic blocks; the others have bottlenecks."""


def _deep_stem(*channels: int) -> tuple[ConvShape, ...]:
    """Three 3x3 convolutions in place of the 7x7 (He et al. 2019, Fig. 2b)."""
    first, second, third = channels
    return ConvShape(3, first, 2), ConvShape(3, second), ConvShape(3, third)


_SUFFIXES: dict[str, dict[str, Any]] = {
    "": {},
    "c": {"stem": _deep_stem(32, 32, 64)},
    "d": {"stem": _deep_stem(32, 32, 64), "shortcut": "D"},
    "s": {"stem": _deep_stem(64, 64, 128)},
    "t": {"stem": _deep_stem(24, 32, 64), "shortcut": "D"},
}
"""Changes of a ResNet by the letter behind its number of layers: C and D of He et al. 2019, "Bag of Tricks for Image
Classification", section 4.2; S of MXNet Gluon; T of timm."""


def _imagenet_variant(layers: int, suffix: str = "", **changes: Any) -> Variant:
    shapes = basic if layers in _BASIC else bottleneck
    return Variant(**{"depths": _DEPTHS[layers], "widths": _IMAGENET, "shapes": shapes, **_SUFFIXES[suffix], **changes})


def _imagenet_family() -> dict[str, Variant]:
    """He et al. 2016a, Table 1."""
    family = {f"resnet{layers}": _imagenet_variant(layers) for layers in (18, 34, 50, 101, 152)}
    first_stride = {f"resnet{layers}-v1": _imagenet_variant(layers, shapes=bottleneck_v1) for layers in (50, 101, 152)}
    return {**family, **first_stride}


def _tweaked_family() -> dict[str, Variant]:
    """Other depths, stems and shortcuts, by their names in timm."""
    rows = {
        "": (26, 200), "c": (50, 101, 152), "d": (18, 26, 34, 50, 101, 152, 200), "s": (50, 101, 152),
        "t": (10, 14, 26, 50),
    }  # fmt: skip
    return {
        f"resnet{layers}{suffix}": _imagenet_variant(layers, suffix) for suffix, each in rows.items() for layers in each
    }


def _wide_family() -> dict[str, Variant]:
    """Wide ResNets (Zagoruyko and Komodakis 2016), and ResNeXt: "32x4d" has 32 groups of 4 channels (Xie et al. 2017).

    The names are those of torchvision and timm.
    """
    wide = {f"wide_resnet{layers}_2": _imagenet_variant(layers, shapes=_wide(1, 128)) for layers in (50, 101)}
    rows = ((50, "", 32, 4), (50, "d", 32, 4), (101, "", 32, 4), (101, "", 32, 8), (101, "", 32, 16), (101, "", 32, 32),
            (101, "", 64, 4))  # fmt: skip
    grouped = {
        f"resnext{layers}{suffix}_{groups}x{each}d": _imagenet_variant(layers, suffix, shapes=_wide(groups, each))
        for layers, suffix, groups, each in rows
    }
    return {**wide, **grouped}


def _wide(groups: int, each: int) -> Callable[[int, int], tuple[ConvShape, ...]]:
    """A bottleneck whose 3x3 convolution has `groups` groups of `each` channels in the first stage."""
    return partial(bottleneck, inner=groups * each // _IMAGENET[0], groups=groups)


def _cifar_family() -> dict[str, Variant]:
    """He et al. 2016a, section 4.2: 6n + 2 layers, option A."""
    return {
        f"resnet{layers}": Variant(
            ((layers - 2) // 6,) * 3, _CIFAR, basic, shortcut="A", stem=(ConvShape(3, 16),), input_size=32
        )
        for layers in (20, 32, 44, 56, 110, 1202)
    }


def _wide_cifar_family() -> dict[str, Variant]:
    """Zagoruyko and Komodakis 2016, Table 1: "wrn-16-2" has 6n + 4 layers, projections included, of twice the width."""
    return {
        f"wrn-{layers}-{factor}": Variant(
            ((layers - 4) // 6,) * 3,
            tuple(factor * width for width in _CIFAR),
            basic,
            block=PreActivationBlock,
            stem=(ConvShape(3, 16),),
            input_size=32,
        )
        for layers, factor in ((16, 2), (40, 4), (28, 10))
    }


def _twins(family: dict[str, Variant], prefix: str, **changes: Any) -> dict[str, Variant]:
    return {name.replace("resnet", prefix): dataclasses.replace(variant, **changes) for name, variant in family.items()}


VARIANTS: dict[str, Variant] = {
    **_imagenet_family(),
    **_tweaked_family(),
    **_wide_family(),
    **_cifar_family(),
    **_wide_cifar_family(),
    **_twins(_imagenet_family(), "plain", shortcut="none"),
    **_twins(_cifar_family(), "plain", shortcut="none"),
    **_twins(_cifar_family(), "preact-resnet", block=PreActivationBlock),
    **_twins(_imagenet_family(), "linear-join-resnet", block=LinearJoinBlock),
    **_twins(_cifar_family(), "linear-join-resnet", block=LinearJoinBlock),
    "tiny": Variant((1, 1), (8, 16), basic, stem=(ConvShape(3, 8),), input_size=16),
}


class UnknownArchitecture(ValueError):
    """The table has no row of this name."""

    def __init__(self, name: str) -> None:
        meant = closest(name, VARIANTS, 3)
        hint = f": did you mean {' or '.join(meant)}?" if meant else ";"
        super().__init__(f"no architecture is named {name!r}{hint} resnet-train --list shows all {len(VARIANTS)}")


def build(name: str, num_classes: int, in_channels: int = 3, **options: Any) -> ResNet:
    """Build the initialised network of a row.

    Args:
        name: a key of `VARIANTS`.
        num_classes: number of logits.
        in_channels: channels of the input.
        options: options `shortcut`, `norm`, `zero_gamma` of `ResNet`.

    Raises:
        UnknownArchitecture: the table has no such row.
    """
    if name not in VARIANTS:
        raise UnknownArchitecture(name)
    return ResNet(VARIANTS[name], num_classes, in_channels, **options)
