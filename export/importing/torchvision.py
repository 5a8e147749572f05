"""torchvision: `conv1`, `layer1.0.bn1`, `layer2.0.downsample.0`, `fc`.

https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
"""

from __future__ import annotations

import re

from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, TrainedPreprocess
from export.importing.source import WeightsFile

_SECOND_RECIPE = {"11ad3fa6", "cd907fc2", "f82ba261"}
_FIRST_RECIPE = {"f37072fd", "b627a593", "0676ba61", "63fe2227", "394f9c45"}
"""First digits of the SHA-256 of torchvision's files: IMAGENET1K_V2 of 50, 101 and 152 layers, IMAGENET1K_V1 of 18 to
152 layers."""


def recognises(source: WeightsFile, arch: str) -> bool:
    return any(re.match(r"layer\d+\.\d+\.", key) for key in source.tensors)


def rename(key: str) -> str:
    key = key.replace("stem.conv.", "conv1.").replace("stem.norm.", "bn1.").replace("classifier.", "fc.")
    return re.sub(r"^stages\.(\d+)\.(\d+)\.(.*)$", _rename_in_block, key)


def _rename_in_block(key: re.Match[str]) -> str:
    stage, block, rest = key.groups()
    rest = rest.replace("shortcut.conv.", "downsample.0.").replace("shortcut.norm.", "downsample.1.")
    if conv := re.match(r"convs\.(\d+)\.(conv|norm)\.", rest):
        kind = "conv" if conv[2] == "conv" else "bn"
        rest = f"{kind}{int(conv[1]) + 1}.{rest[conv.end() :]}"
    return f"layer{int(stage) + 1}.{block}.{rest}"


def check(source: WeightsFile, arch: str) -> None:
    """Nothing to check beyond keys and shapes."""


def trained(source: WeightsFile, arch: str) -> TrainedPreprocess:
    second = source.sha256[:8] in _SECOND_RECIPE
    values = {
        "size": (224, 224),
        "resize": 232 if second else 256,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    if second:
        return TrainedPreprocess(values, "torchvision's IMAGENET1K_V2, whose file this is")
    if source.sha256[:8] in _FIRST_RECIPE:
        return TrainedPreprocess(values, "torchvision's IMAGENET1K_V1, whose file this is")
    return TrainedPreprocess(
        values, "torchvision's IMAGENET1K_V1, assumed: the file is none that torchvision publishes"
    )


def labels(source: WeightsFile, arch: str) -> None:
    return None
