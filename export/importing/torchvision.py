"""torchvision: `conv1`, `layer1.0.bn1`, `layer2.0.downsample.0`, `fc`.

https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
"""

from __future__ import annotations

import re

from export.importing import published
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, TrainedPreprocess
from export.importing.source import WeightsFile

_RENAMES = (
    (r"^stem\.conv\.", "conv1."),
    (r"^stem\.norm\.", "bn1."),
    (r"^stem\.0\.conv\.", "conv1.0."),
    (r"^stem\.0\.norm\.", "conv1.1."),
    (r"^stem\.2\.conv\.", "conv1.3."),
    (r"^stem\.2\.norm\.", "conv1.4."),
    (r"^stem\.4\.conv\.", "conv1.6."),
    (r"^stem\.4\.norm\.", "bn1."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.1\.conv\.", ".downsample.1."),
    (r"\.shortcut\.1\.norm\.", ".downsample.2."),
    (r"^classifier\.", "fc."),
)
"""Of both the usual and the three-part stem, and of shortcuts without and with a pool (the latter are timm's only)."""


def recognises(source: WeightsFile) -> bool:
    return any(re.match(r"layer\d+\.\d+\.", key) for key in source.tensors)


def rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return re.sub(r"^stages\.(\d+)\.(\d+)\.(?:convs\.(\d+)\.(conv|norm)\.)?", _rename_block, key)


def _rename_block(key: re.Match[str]) -> str:
    stage, block, index, kind = key.groups()
    conv = "" if index is None else f"{'conv' if kind == 'conv' else 'bn'}{int(index) + 1}."
    return f"layer{int(stage) + 1}.{block}.{conv}"


def named(source: WeightsFile) -> str:
    return ""


def check(source: WeightsFile, arch: str) -> None:
    """Nothing to check beyond keys and shapes."""


def trained(source: WeightsFile) -> TrainedPreprocess:
    found = next((weights for weights in published.PUBLISHED if source.sha256.startswith(weights.digits)), None)
    values = {
        "size": (224, 224),
        "resize": 256 if found is None else found.resize,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    if found is not None:
        return TrainedPreprocess(values, f"torchvision's {found.weights} of {found.architecture}, whose file this is")
    return TrainedPreprocess(
        values, "torchvision's IMAGENET1K_V1, assumed: the file is none that torchvision publishes", assumed=True
    )


def labels(source: WeightsFile) -> None:
    return None
