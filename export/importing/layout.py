"""The interface of a layout of weights: the names of its tensors, and the files beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from export.errors import ForeignWeights
from export.importing.source import WeightsFile
from models.imaging.preprocess import Preprocess
from models.validation import first_error

MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
"""Colour mode by number of channels."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMPORT_AS_ONNX = "export it to ONNX and use resnet-export import --onnx"


@dataclass(frozen=True)
class TrainedPreprocess:
    """The preprocessing that weights were trained with."""

    preprocess: dict[str, Any]
    """Fields of `Preprocess`, without the mode. A mean or deviation that is one number is that of every channel."""
    known_from: str
    """Source of the values, for people."""
    assumed: bool = False
    """Whether the values are only usual ones, because no file states them."""
    unsupported: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """Fields that must be given, with the reason: the files state something that `Preprocess` cannot express."""


class WeightsLayout(Protocol):
    """Interface of a layout's module."""

    def recognises(self, source: WeightsFile) -> bool:
        """Whether a file has this layout, by its names and the files beside it."""
        ...

    def rename(self, key: str) -> str:
        """The layout's name for a key of a state dict of `models.architectures`."""
        ...

    def named(self, source: WeightsFile) -> str:
        """Name of the network in the files beside the weights, as in the table if it is there; empty without a name."""
        ...

    def check(self, source: WeightsFile, arch: str) -> None:
        """Refuse networks that have the tensors of an architecture but compute something else.

        Raises:
            ForeignWeights: the network is not the architecture.
        """
        ...

    def trained(self, source: WeightsFile) -> TrainedPreprocess:
        """The preprocessing of the weights.

        Raises:
            ForeignWeights: the preprocessing in the files is not supported.
        """
        ...

    def labels(self, source: WeightsFile) -> Sequence[str] | None:
        """Names of the classes, if the files have them."""
        ...


def make_preprocess(values: Mapping[str, Any]) -> Preprocess:
    """The preprocessing with these fields.

    Raises:
        ForeignWeights: the fields are invalid.
    """
    try:
        return Preprocess.model_validate(values)
    except ValidationError as error:
        raise ForeignWeights(f"preprocessing: {first_error(error)}") from error
