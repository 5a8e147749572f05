"""torchvision: a state dict, without files beside it."""

from __future__ import annotations

from export.writing.library import has_usual_stem, shortcut
from models.architectures import VARIANTS
from models.architectures.blocks import bottleneck_v1
from models.training.checkpoint import Checkpoint


def reason(checkpoint: Checkpoint) -> str | None:
    if VARIANTS[checkpoint.architecture.name].shapes is bottleneck_v1:
        return "its stride is in the first convolution of a bottleneck"
    if not has_usual_stem(checkpoint):
        return "its stem has three convolutions"
    if shortcut(checkpoint) != "B":
        return "its shortcuts have pools"
    if checkpoint.architecture.in_channels != 3:
        return "it takes grey images"
    return None


def files(checkpoint: Checkpoint) -> dict[str, dict[str, object]]:
    return {}
