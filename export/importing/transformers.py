"""Hugging Face's transformers, `ResNetForImageClassification`: `resnet.encoder.stages.0.layers.0.layer.0.convolution`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/resnet/modeling_resnet.py
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from export.errors import ForeignWeights
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, TrainedPreprocess
from export.importing.source import WeightsFile
from models.architectures import VARIANTS
from models.architectures.blocks import basic, bottleneck_v1

_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_DEFAULT_STATISTICS = (0.5, 0.5, 0.5)
"""Default mean and standard deviation of a `ConvNextImageProcessor`."""
_NO_CROP = 384
"""From this size on, `ConvNextImageProcessor` resizes images without a crop."""

_MODEL_TYPE = "resnet"
_FIELDS = {"model_type", "downsample_in_bottleneck", "downsample_in_first_stage", "hidden_act", "id2label"}

_RENAMES = (
    (r"\.conv\.", ".convolution."),
    (r"\.norm\.", ".normalization."),
    (r"^stem\.", "resnet.embedder.embedder."),
    (r"^stages\.(\d+)\.(\d+)\.convs\.", r"resnet.encoder.stages.\1.layers.\2.layer."),
    (r"^stages\.(\d+)\.(\d+)\.shortcut\.", r"resnet.encoder.stages.\1.layers.\2.shortcut."),
    (r"^classifier\.", "classifier.1."),
)


def rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def recognises(source: WeightsFile) -> bool:
    return any(key.startswith("resnet.encoder.") for key in source.tensors)


def named(source: WeightsFile) -> str:
    return ""


def _config(source: WeightsFile) -> dict[str, Any]:
    """The configuration beside the weights; empty if it is not that of a ResNet of transformers."""
    config = source.beside(_CONFIG)
    ours = _FIELDS.intersection(config) and config.get("model_type", _MODEL_TYPE) == _MODEL_TYPE
    return config if ours else {}


def check(source: WeightsFile, arch: str) -> None:
    config = _config(source)
    first = bool(config.get("downsample_in_bottleneck"))
    shapes = VARIANTS[arch].shapes if arch in VARIANTS else None
    if config and shapes is not basic and first != (shapes is bottleneck_v1):
        place = "first" if first else "3x3"
        raise ForeignWeights(
            f"{source.path.with_name(_CONFIG)}: the stride is in a bottleneck's {place} convolution, unlike in {arch}"
        )
    if config.get("downsample_in_first_stage"):
        raise ForeignWeights(f"{source.path.with_name(_CONFIG)}: downsample_in_first_stage is not supported")
    if config.get("hidden_act", "relu") != "relu":
        raise ForeignWeights(f"{source.path.with_name(_CONFIG)}: hidden_act {config['hidden_act']!r} is not relu")


def trained(source: WeightsFile) -> TrainedPreprocess:
    config = source.beside(_PROCESSOR)
    size, resize = _sizes(config, source)
    resample = config.get("resample", Image.Resampling.BICUBIC)
    mean, std = (_DEFAULT_STATISTICS, _DEFAULT_STATISTICS) if config else (IMAGENET_MEAN, IMAGENET_STD)
    values = {
        "size": size,
        "resize": resize,
        "interpolation": Image.Resampling(resample).name.lower(),
        "mean": tuple(config.get("image_mean", mean)),
        "std": tuple(config.get("image_std", std)),
    }
    if resize is not None:
        values["odd_margins"] = "down"
    if config:
        return TrainedPreprocess(values, _PROCESSOR)
    return TrainedPreprocess(values, f"that of microsoft/resnet-50, assumed: there is no {_PROCESSOR} beside the file")


def _sizes(config: dict[str, Any], source: WeightsFile) -> tuple[tuple[int, int], int | None]:
    """The size of the crop, and the shorter side before the crop; None without a crop."""
    size = config.get("size", 224)
    if isinstance(size, int):
        size = {"shortest_edge": size}
    edge = size.get("shortest_edge")
    if config.get("do_center_crop") and edge is not None:
        crop = config["crop_size"]
        return ((crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])), edge
    if edge is not None and edge < _NO_CROP:
        return (edge, edge), int(edge / config.get("crop_pct", 224 / 256))
    if edge is not None:
        return (edge, edge), None
    if not config.get("do_center_crop") and {"height", "width"} <= size.keys():
        return (size["height"], size["width"]), None
    raise ForeignWeights(
        f"{source.path.with_name(_PROCESSOR)}: its size {size} is not supported: give --size and --resize"
    )


def labels(source: WeightsFile) -> Sequence[str] | None:
    named = _config(source).get("id2label")
    if not isinstance(named, dict) or any(str(name).startswith("LABEL_") for name in named.values()):
        return None  # the library's names for classes without a name
    return [str(named[key]) for key in sorted(named, key=int)] if all(key.isdecimal() for key in named) else None
