"""Hugging Face's transformers, `ResNetForImageClassification`: `resnet.encoder.stages.0.layers.0.layer.0.convolution`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/resnet/modeling_resnet.py
"""

from __future__ import annotations

import math
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
_ASSUMED = {
    "size": (224, 224), "resize": 256, "odd_margins": "down", "interpolation": "bicubic",
    "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
}  # fmt: skip
_CLIP = {
    "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True, "crop_size": 224,
    "image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711),
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ConvNext": {"size": {"shortest_edge": 384}, "resample": 3, "image_mean": 0.5, "image_std": 0.5},
    "ViT": {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": 0.5, "image_std": 0.5},
    "Bit": _CLIP,
    "CLIP": _CLIP,
}
"""Values that the library's classes take for fields that a file leaves out."""
_SIZE_FIELDS = ("do_resize", "size", "do_center_crop", "crop_size", "crop_pct")
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
    given = {key: value for key, value in source.beside(_PROCESSOR).items() if value is not None}
    if not given:
        assumed = f"that of microsoft/resnet-50, assumed: there is no {_PROCESSOR} beside the file"
        return TrainedPreprocess(_ASSUMED, assumed, assumed=True)
    place = source.path.with_name(_PROCESSOR)
    for option in ("do_pad", "do_flip_channel_order"):
        if given.get(option):
            raise ForeignWeights(f"{place}: {option} is not supported")
    family = _family(given)
    config = {**_DEFAULTS.get(family, {}), **given}
    values: dict[str, Any] = {}
    unsupported: dict[tuple[str, ...], str] = {}
    sizes = _sizes(config, family)
    if sizes is None:
        stated = ", ".join(f"{key} {config[key]}" for key in _SIZE_FIELDS if key in config)
        unsupported["size", "resize"] = f"{place}: its size ({stated or 'none'}) is not supported"
    else:
        values["size"], values["resize"] = sizes
        values |= {} if sizes[1] is None else {"odd_margins": "down"}
    if "resample" in config:
        values["interpolation"] = Image.Resampling(config["resample"]).name.lower()
    else:
        unsupported[("interpolation",)] = f"{place}: has no resample"
    if reason := _other_values(config):
        unsupported["mean", "std"] = f"{place}: {reason}"
    elif config.get("do_normalize", True):
        values |= {"mean": config["image_mean"], "std": config["image_std"]}
    else:
        values |= {"mean": 0.0, "std": 1.0}
    return TrainedPreprocess(values, _PROCESSOR, unsupported=unsupported)


def _family(config: dict[str, Any]) -> str:
    """ViT for a ViTImageProcessor, ViTImageProcessorFast or ViTFeatureExtractor. The library's ResNets have ConvNext's
    class unless another is named."""
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ConvNextImageProcessor")
    return "ConvNext" if "ConvNext" in name else re.sub(r"(ImageProcessor|FeatureExtractor)\w*$", "", name)


def _other_values(config: dict[str, Any]) -> str | None:
    """Why pixels are not scaled to values between 0 and 1 and normalised by a known mean; None if they are."""
    if not config.get("do_rescale", True):
        return "do_rescale is false, so the mean and the deviation are not those of values between 0 and 1"
    factor = config.get("rescale_factor", 1 / 255)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        return f"rescale_factor is {factor:g} and not 1/255, so values are not between 0 and 1"
    if config.get("do_normalize", True) and not {"image_mean", "image_std"} <= config.keys():
        return "has no image_mean and image_std"
    return None


def _sizes(config: dict[str, Any], family: str) -> tuple[tuple[int, int], int | None] | None:
    """The size of the crop, and the shorter side before the crop, or None without a crop; None if not supported."""
    size, crops, scales = config.get("size"), bool(config.get("do_center_crop")), family == "ConvNext"
    if isinstance(size, int) and family in _DEFAULTS:
        size = {"height": size, "width": size} if family == "ViT" else {"shortest_edge": size}
    if not config.get("do_resize", True) or not isinstance(size, dict) or "longest_edge" in size:
        return None
    edge = size.get("shortest_edge")
    if edge is None:
        whole = {"height", "width"} <= size.keys() and not crops
        return ((size["height"], size["width"]), None) if whole else None
    if crops:  # ConvNext's class would crop a second time
        crop = config["crop_size"]
        named = "image_processor_type" in config or "feature_extractor_type" in config
        cuts_twice = "crop_pct" in config or (scales and named)
        return (
            None if cuts_twice else ((crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"]), edge)
        )
    if not scales:  # the height or the width follows the image
        return None
    return (edge, edge), int(edge / config.get("crop_pct", 224 / 256)) if edge < _NO_CROP else None


def labels(source: WeightsFile) -> Sequence[str] | None:
    named = _config(source).get("id2label")
    if not isinstance(named, dict) or any(str(name).startswith("LABEL_") for name in named.values()):
        return None  # the library's names for classes without a name
    if named.keys() != {str(index) for index in range(len(named))}:
        place = source.path.with_name(_CONFIG)
        raise ForeignWeights(f"{place}: the numbers in id2label do not begin with 0 or have gaps: give --labels FILE")
    return [str(named[str(index)]) for index in range(len(named))]
