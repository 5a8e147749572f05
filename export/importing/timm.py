"""timm: torchvision's names for many more networks, one of which `config.json` beside the weights names.

https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/resnet.py
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from export.errors import ForeignWeights
from export.importing import torchvision
from export.importing.fit import Fit, fit
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, IMPORT_AS_ONNX, TrainedPreprocess
from export.importing.source import WeightsFile
from models.architectures import VARIANTS

_CONFIG = "config.json"
_CROP = 0.95
"""Share of the resized image that the crop keeps, for most of timm's weights."""

rename = torchvision.rename


_FAMILY = re.compile(r"res\w*ne[sx]?t|senet")
"""The beginnings of names of networks that can have the tensors of a ResNet."""
_FORMER = re.compile(r"(?:tv|gluon|ssl|swsl|ig)_(\w+?)(?:_v1(?:b|([cds])))?")
"""Former names: tv_resnet50, gluon_resnet50_v1b, gluon_resnet50_v1d."""
_HARMLESS = {"num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"}
"""Arguments of a network that change nothing in inference."""


def recognises(source: WeightsFile) -> bool:
    return torchvision.recognises(source) and (bool(_config(source)) or "conv1.0.weight" in source.tensors)


def named(source: WeightsFile) -> str:
    return network_name(_config(source))


def _config(source: WeightsFile) -> dict[str, Any]:
    """The configuration beside the weights; empty if it is not timm's, or that of another file's network."""
    config = source.beside(_CONFIG)
    if "pretrained_cfg" not in config and isinstance(config.get("architecture"), str):
        # The form of early files, without the level between.
        config = {"architecture": config["architecture"], "pretrained_cfg": config, "label_names": config.get("labels")}
    if not isinstance(config.get("pretrained_cfg"), dict):
        return {}
    name = network_name(config)
    if name in VARIANTS:
        ours = isinstance(fit(source.tensors, torchvision, name), Fit)
    else:  # a network that we do not have can have the tensors of one that we have
        ours = not name or _FAMILY.search(name) is not None
    return config if ours else {}


def network_name(config: Mapping[str, Any]) -> str:
    """Name of the network in a configuration, without the name of its weights: resnet50 of resnet50.a1_in1k."""
    name = str(config.get("architecture", "")).partition(".")[0]
    former = _FORMER.fullmatch(name)
    return name if former is None else former[1] + (former[2] or "")


def check(source: WeightsFile, arch: str) -> None:
    config = _config(source)
    if (name := network_name(config)) not in ("", arch):
        raise ForeignWeights(
            f"{source.path.with_name(_CONFIG)}: names timm's {name}, which has the tensors of {arch} and "
            f"computes something else: {IMPORT_AS_ONNX} (or give --layout torchvision, if it describes another file)"
        )
    arguments = {"global_pool": config.get("global_pool", "avg"), **(config.get("model_args") or {})}
    changes = [
        name for name in arguments if name not in _HARMLESS and (name, arguments[name]) != ("global_pool", "avg")
    ]
    if changes:
        raise ForeignWeights(
            f"{source.path.with_name(_CONFIG)}: changes {', '.join(changes)} of {arch}, which is not supported: "
            f"{IMPORT_AS_ONNX}"
        )


def trained(source: WeightsFile) -> TrainedPreprocess:
    config: dict[str, Any] = _config(source).get("pretrained_cfg", {})
    crop, share = config.get("crop_mode", "center"), config.get("crop_pct", _CROP)
    squashes = crop == "squash" and share == 1
    if crop != "center" and not squashes:
        raise ForeignWeights(f"{source.path.with_name(_CONFIG)}: crop_mode {crop!r} is not supported")
    size = tuple(config.get("input_size", (3, 224, 224))[1:])
    values = {
        "size": size,
        "resize": None if squashes else math.floor(min(size) / share),
        "interpolation": config.get("interpolation", "bicubic"),
        "mean": tuple(config.get("mean", IMAGENET_MEAN)),
        "std": tuple(config.get("std", IMAGENET_STD)),
    }
    if config:
        return TrainedPreprocess(values, f"pretrained_cfg in {_CONFIG}")
    return TrainedPreprocess(values, f"timm's usual, assumed: there is no {_CONFIG} beside the file", assumed=True)


def labels(source: WeightsFile) -> Sequence[str] | None:
    config = _config(source)
    names, descriptions = (
        config.get(key) or config.get("pretrained_cfg", {}).get(key) for key in ("label_names", "label_descriptions")
    )
    if not isinstance(names, list):
        return None
    if isinstance(descriptions, dict):  # of names such as n01440764
        return [str(descriptions.get(name, name)) for name in names]
    return names
