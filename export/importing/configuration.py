"""Refuses other networks by their configuration alone, before their weights are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.errors import ForeignWeights
from export.importing.layout import IMPORT_AS_ONNX
from export.importing.timm import network_name
from models.architectures import VARIANTS

_MODEL_TYPES = ("resnet", "timm_wrapper")
"""Values of transformers' `model_type` whose weights can be those of a ResNet."""


def check_configuration(place: str, config: Mapping[str, Any]) -> None:
    """Refuse a network that is no ResNet.

    Args:
        place: name of the weights, for messages.
        config: content of config.json; empty without one.

    Raises:
        ForeignWeights: the configuration names another network.
    """
    kind = config.get("model_type")
    if kind is not None and kind not in _MODEL_TYPES:
        raise ForeignWeights(f"{place}: is a {kind!s}, no ResNet: {IMPORT_AS_ONNX}")
    name = network_name(config)
    if name and name not in VARIANTS:
        raise ForeignWeights(f"{place}: is a {name}, which resnet-train --list does not have: {IMPORT_AS_ONNX}")
