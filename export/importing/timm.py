"""timm: torchvision's names for many more networks, one of which `config.json` beside the weights names.

https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/resnet.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from export.errors import ForeignWeights
from export.importing import torchvision
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, TrainedPreprocess
from export.importing.source import WeightsFile

_CONFIG = "config.json"
_CROP = 0.95
"""Share of the resized image that the crop keeps, for most of timm's weights."""

rename = torchvision.rename


def recognises(source: WeightsFile) -> bool:
    return "pretrained_cfg" in source.beside(_CONFIG) or "conv1.0.weight" in source.tensors


def check(source: WeightsFile, arch: str) -> None:
    if "conv1.0.weight" in source.tensors:
        raise ForeignWeights(
            f"{source.path}: is a ResNet-C or -D with three convolutions in the stem (conv1.0), which is not supported"
        )
    if "layer1.0.se.fc1.weight" in source.tensors:
        raise ForeignWeights(f"{source.path}: has squeeze-and-excitation blocks (layer1.0.se), which are not supported")
    if "bn1.weight" in source.tensors and "bn1.running_mean" not in source.tensors:
        raise ForeignWeights(f"{source.path}: is normalised by groups (bn1 has no statistics), which is not supported")
    named = str(source.beside(_CONFIG).get("architecture", arch))
    if named not in (arch, f"tv_{arch}", f"gluon_{arch}_v1b"):
        raise ForeignWeights(
            f"{source.path.with_name(_CONFIG)}: names timm's {named!r}, not {arch!r}: other networks "
            "compute something else with the same tensors"
        )


def trained(source: WeightsFile) -> TrainedPreprocess:
    config: dict[str, Any] = source.beside(_CONFIG).get("pretrained_cfg", {})
    if config.get("crop_mode", "center") != "center":
        raise ForeignWeights(f"{source.path.with_name(_CONFIG)}: crop_mode {config['crop_mode']!r} is not supported")
    size = tuple(config.get("input_size", (3, 224, 224))[1:])
    values = {
        "size": size,
        "resize": math.floor(min(size) / config.get("crop_pct", _CROP)),
        "interpolation": config.get("interpolation", "bicubic"),
        "mean": tuple(config.get("mean", IMAGENET_MEAN)),
        "std": tuple(config.get("std", IMAGENET_STD)),
    }
    if config:
        return TrainedPreprocess(values, f"pretrained_cfg in {_CONFIG}")
    return TrainedPreprocess(values, f"timm's usual, assumed: there is no {_CONFIG} beside the file")


def labels(source: WeightsFile) -> Sequence[str] | None:
    names = source.beside(_CONFIG).get("label_names")
    return names if isinstance(names, list) else None
