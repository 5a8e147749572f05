"""Finds the architecture of weights, by their tensors and by the files beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from export.errors import ForeignWeights
from export.importing.fit import Fit, fit
from export.importing.layout import IMPORT_AS_ONNX, WeightsLayout
from export.importing.source import WeightsFile
from models.architectures import VARIANTS
from models.architectures.blocks import PostActivationBlock

_UNSUPPORTED = {
    "layer1.0.se.fc1.weight": "squeeze-and-excitation",
    "layer1.0.se.conv.weight": "efficient channel attention",
    "layer1.0.conv2.fc1.weight": "split attention",
    "layer1.0.conv2.attn.fc_reduce.weight": "selective kernels",
    "maxpool.0.weight": "a convolution in place of the pool",
}
"""Tensors of timm's networks, and the part of the network that they belong to, which no architecture has."""


def detect(source: WeightsFile, layout: WeightsLayout) -> str:
    """The name of the architecture of weights in a layout.

    Architectures can have the same tensors and differ in a stride or a pool. The configuration beside the weights then
    decides, or without one, the order of the table.

    Raises:
        ForeignWeights: no architecture fits, or the configuration names another network with the same tensors.
    """
    check_parts(source, layout)
    refusal: ForeignWeights | None = None
    for name in _fitting(source.tensors, layout):
        try:
            layout.check(source, name)
        except ForeignWeights as error:
            refusal = refusal or error
        else:
            return name
    raise refusal or ForeignWeights(f"{source.path}: {_unknown(source, layout)}: {IMPORT_AS_ONNX}")


def check_parts(source: WeightsFile, layout: WeightsLayout) -> None:
    """Refuse a network with a part that no architecture has.

    Raises:
        ForeignWeights: the network has such a part.
    """
    part = next((part for name, part in _UNSUPPORTED.items() if name in source.tensors), None)
    if part is None and "bn1.weight" in source.tensors and "bn1.running_mean" not in source.tensors:
        part = "normalisation without statistics, by groups or layers"
    if part is not None:
        network = layout.named(source) or "this network"
        raise ForeignWeights(f"{source.path}: {network} has {part}, which is not supported: {IMPORT_AS_ONNX}")


def _fitting(tensors: Mapping[str, Tensor], layout: WeightsLayout) -> Iterator[str]:
    """The architectures that the tensors fit, in the order of the table."""
    for name, variant in VARIANTS.items():
        # Other projects have no plain networks, and none with linear joins.
        if variant.block is PostActivationBlock and variant.shortcut != "none":
            # The number of blocks first: a comparison of all tensors takes longer.
            same_depth = all(
                _has_block(tensors, layout, stage, depth - 1) and not _has_block(tensors, layout, stage, depth)
                for stage, depth in enumerate(variant.depths)
            )
            if same_depth and isinstance(fit(tensors, layout, name), Fit):
                yield name


def _has_block(tensors: Mapping[str, Tensor], layout: WeightsLayout, stage: int, block: int) -> bool:
    return layout.rename(f"stages.{stage}.{block}.convs.0.conv.weight") in tensors


def _unknown(source: WeightsFile, layout: WeightsLayout) -> str:
    """Why no architecture fits."""
    named = layout.named(source)
    if named in VARIANTS:
        return f"these are not the weights of {named} ({fit(source.tensors, layout, named)})"
    return f"these are not the weights of an architecture of resnet-train --list{f', but of {named}' if named else ''}"
