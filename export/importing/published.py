"""The weights that torchvision publishes, as data.

They are those of torchvision 0.29, torchvision/models/resnet.py (BSD 3-Clause, Copyright Soumith Chintala 2016).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedWeights:
    """Weights by their names in torchvision."""

    architecture: str
    weights: str
    """Name of the weights; the last ones of an architecture are its default."""
    digits: str
    """First digits of the SHA-256 of the file, which are part of its name."""
    resize: int = 256
    """Shorter side before the crop to 224 x 224."""

    @property
    def file(self) -> str:
        return f"{self.architecture}-{self.digits}.pth"


_V1, _V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
PUBLISHED = (
    PublishedWeights("resnet18", _V1, "f37072fd"),
    PublishedWeights("resnet34", _V1, "b627a593"),
    PublishedWeights("resnet50", _V1, "0676ba61"),
    PublishedWeights("resnet50", _V2, "11ad3fa6", 232),
    PublishedWeights("resnet101", _V1, "63fe2227"),
    PublishedWeights("resnet101", _V2, "cd907fc2", 232),
    PublishedWeights("resnet152", _V1, "394f9c45"),
    PublishedWeights("resnet152", _V2, "f82ba261", 232),
    PublishedWeights("resnext50_32x4d", _V1, "7cdf4587"),
    PublishedWeights("resnext50_32x4d", _V2, "1a0047aa", 232),
    PublishedWeights("resnext101_32x8d", _V1, "8ba56ff5"),
    PublishedWeights("resnext101_32x8d", _V2, "110c445d", 232),
    PublishedWeights("resnext101_64x4d", _V1, "173b62eb", 232),
    PublishedWeights("wide_resnet50_2", _V1, "95faca4d"),
    PublishedWeights("wide_resnet50_2", _V2, "9ba9bcbe", 232),
    PublishedWeights("wide_resnet101_2", _V1, "32ee1156"),
    PublishedWeights("wide_resnet101_2", _V2, "d733dc28", 232),
)
LICENCE = "BSD 3-Clause for torchvision; the images of ImageNet have terms of their own"
