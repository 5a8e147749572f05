"""timm: a folder of the hub with `config.json`.

https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/_hub.py
"""

from __future__ import annotations

import math
from typing import Any

from export.errors import BuildError
from export.writing.library import has_usual_stem, shortcut
from models.architectures import VARIANTS
from models.architectures.blocks import bottleneck_v1
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint


def reason(checkpoint: Checkpoint) -> str | None:
    variant = VARIANTS[checkpoint.architecture.name]
    if variant.shapes is bottleneck_v1:
        return "its stride is in the first convolution of a bottleneck"
    if shortcut(checkpoint) != variant.shortcut:  # timm's name would stand for the usual one
        return f"its shortcuts are of option {shortcut(checkpoint)}"
    return None


def files(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    arch, preprocess = checkpoint.architecture, checkpoint.preprocess
    arguments = {"in_chans": arch.in_channels, "num_classes": arch.num_classes, "global_pool": "avg"}
    config = {
        "architecture": arch.name,
        "num_classes": arch.num_classes,
        "num_features": checkpoint.weights["classifier.weight"].shape[1],
        "global_pool": "avg",
        "model_args": arguments,
        "label_names": list(checkpoint.labels),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [arch.in_channels, *preprocess.size],
            "fixed_input_size": False,
            "interpolation": preprocess.interpolation,
            **_crop(preprocess),
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": arch.num_classes,
            "first_conv": "conv1" if has_usual_stem(checkpoint) else "conv1.0",
            "classifier": "fc",
        },
    }
    return {"config.json": config}


def _crop(preprocess: Preprocess) -> dict[str, Any]:
    """timm resizes the shorter side to floor(size / crop_pct), or the image to the size ("squash")."""
    height, width = preprocess.size
    if preprocess.resize is None:
        return {"crop_pct": 1.0, "crop_mode": "squash"}
    if height != width:
        raise BuildError(f"timm has no crop of {height} x {width} pixels after a resize of the shorter side")
    share = height / preprocess.resize
    if math.floor(height / share) < preprocess.resize:  # the division has rounded
        share = math.nextafter(share, 0)
    return {"crop_pct": share, "crop_mode": "center"}
