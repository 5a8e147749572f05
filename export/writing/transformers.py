"""Hugging Face's transformers: a folder of the hub with `config.json` and `preprocessor_config.json`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/resnet/configuration_resnet.py
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from export.writing.library import has_usual_stem, shortcut
from models.architectures import VARIANTS
from models.architectures.blocks import basic, bottleneck, bottleneck_v1
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint


def reason(checkpoint: Checkpoint) -> str | None:
    if VARIANTS[checkpoint.architecture.name].shapes not in (basic, bottleneck, bottleneck_v1):
        return "its 3x3 convolutions are wide or have groups"
    if not has_usual_stem(checkpoint):
        return "its stem has three convolutions"
    if shortcut(checkpoint) != "B":
        return "its shortcuts have pools"
    return None


def files(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    return {
        "config.json": _config(checkpoint),
        "preprocessor_config.json": _preprocessing(checkpoint.preprocess),
    }


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    variant = VARIANTS[checkpoint.architecture.name]
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": checkpoint.architecture.in_channels,
        "embedding_size": variant.stem[-1].channels,
        "hidden_sizes": [variant.shapes(width, 1)[-1].channels for width in variant.widths],
        "depths": list(variant.depths),
        "layer_type": "basic" if variant.shapes is basic else "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": variant.shapes is bottleneck_v1,
        "id2label": {str(index): label for index, label in enumerate(checkpoint.labels)},
        "label2id": {label: index for index, label in enumerate(checkpoint.labels)},
        "torch_dtype": str(checkpoint.weights["classifier.weight"].dtype).removeprefix("torch."),
    }


def _preprocessing(preprocess: Preprocess) -> dict[str, Any]:
    """Classes that resize and crop as told; `ConvNextImageProcessor` derives the sizes from a share.

    The library rounds the margin of a crop down, which can shift it by a pixel.
    """
    height, width = preprocess.size
    size = {"height": height, "width": width}
    crops = preprocess.resize is not None
    return {
        "image_processor_type": "BitImageProcessor" if crops else "ViTImageProcessor",
        "do_convert_rgb": preprocess.mode == "RGB",
        "do_resize": True,
        "size": {"shortest_edge": preprocess.resize} if crops else size,
        "resample": int(Image.Resampling[preprocess.interpolation.upper()]),
        **({"do_center_crop": True, "crop_size": size} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
