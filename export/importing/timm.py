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
from models.architectures import VARIANTS

_CONFIG = "config.json"
_CROP = 0.95
"""Share of the resized image that the crop keeps, for most of timm's weights."""

rename = torchvision.rename


def recognises(source: WeightsFile, arch: str) -> bool:
    return bool(_config(source, arch)) or "conv1.0.weight" in source.tensors


def _config(source: WeightsFile, arch: str) -> dict[str, Any]:
    """The configuration beside the weights; empty if it is not timm's, or that of another file's network."""
    config = source.beside(_CONFIG)
    if not isinstance(config.get("pretrained_cfg"), dict):
        return {}
    named = _named(config, arch)
    # The tensors fit one of our networks only, but variants of a ResNet have the same ones.
    other = "resnet" not in named or (named in VARIANTS and named != arch)
    return {} if other else config


def _named(config: dict[str, Any], arch: str) -> str:
    """Name of the network in a configuration, without the name of its weights: resnet50 of resnet50.a1_in1k."""
    return str(config.get("architecture", arch)).partition(".")[0]


def check(source: WeightsFile, arch: str) -> None:
    if "conv1.0.weight" in source.tensors:
        raise ForeignWeights(
            f"{source.path}: is a ResNet-C or -D with three convolutions in the stem (conv1.0), which is not supported"
        )
    if "layer1.0.se.fc1.weight" in source.tensors:
        raise ForeignWeights(f"{source.path}: has squeeze-and-excitation blocks (layer1.0.se), which are not supported")
    if "bn1.weight" in source.tensors and "bn1.running_mean" not in source.tensors:
        raise ForeignWeights(f"{source.path}: is normalised by groups (bn1 has no statistics), which is not supported")
    named = _named(_config(source, arch), arch)
    if named not in (arch, f"tv_{arch}", f"gluon_{arch}_v1b"):
        raise ForeignWeights(
            f"{source.path.with_name(_CONFIG)}: names timm's {named!r}, not {arch!r}: other networks "
            "compute something else with the same tensors (--layout torchvision, if it describes another file)"
        )


def trained(source: WeightsFile, arch: str) -> TrainedPreprocess:
    config: dict[str, Any] = _config(source, arch).get("pretrained_cfg", {})
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


def labels(source: WeightsFile, arch: str) -> Sequence[str] | None:
    names = _config(source, arch).get("label_names")
    return names if isinstance(names, list) else None
