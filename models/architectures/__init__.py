"""The table of architectures: every network of the project is one row.

To add a network, add a row here, or a module that adds rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from models.architectures.blocks import LinearJoinBlock, PreActivationBlock, basic, bottleneck, bottleneck_v1
from models.architectures.resnet import ResNet, Variant

__all__ = ["VARIANTS", "ResNet", "UnknownArchitecture", "Variant", "build"]

_IMAGENET = (64, 128, 256, 512)
_CIFAR = (16, 32, 64)


def _imagenet_family() -> dict[str, Variant]:
    """He et al. 2016a, Table 1."""
    depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    family = {}
    for layers, stages in depths.items():
        family[f"resnet{layers}"] = Variant(stages, _IMAGENET, basic if layers < 50 else bottleneck)
        if layers >= 50:
            family[f"resnet{layers}-v1"] = Variant(stages, _IMAGENET, bottleneck_v1)
    return family


def _cifar_family() -> dict[str, Variant]:
    """He et al. 2016a, section 4.2: 6n + 2 layers, option A."""
    return {
        f"resnet{layers}": Variant(((layers - 2) // 6,) * 3, _CIFAR, basic, shortcut="A", stem="cifar", input_size=32)
        for layers in (20, 32, 44, 56, 110, 1202)
    }


def _twins(family: dict[str, Variant], prefix: str, **changes: Any) -> dict[str, Variant]:
    return {name.replace("resnet", prefix): dataclasses.replace(variant, **changes) for name, variant in family.items()}


VARIANTS: dict[str, Variant] = {
    **_imagenet_family(),
    **_cifar_family(),
    **_twins(_imagenet_family(), "plain", shortcut="none"),
    **_twins(_cifar_family(), "plain", shortcut="none"),
    **_twins(_cifar_family(), "preact-resnet", block=PreActivationBlock),
    **_twins(_imagenet_family(), "linear-join-resnet", block=LinearJoinBlock),
    **_twins(_cifar_family(), "linear-join-resnet", block=LinearJoinBlock),
    "tiny": Variant((1, 1), (8, 16), basic, stem="cifar", input_size=16),
}


class UnknownArchitecture(ValueError):
    """The table has no row of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no architecture is named {name!r}; there are: {', '.join(VARIANTS)}")


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
