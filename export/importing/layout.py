"""What one layout of weights is: how it is told from others, and what its files say beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from export.errors import ForeignWeights
from export.importing.source import Source
from models.imaging.preprocess import Preprocess
from models.validation import first_error

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Trained:
    """How images were prepared for a file's weights."""

    preprocess: dict[str, Any]
    """Fields of `models.preprocess.Preprocess`, but for the mode."""
    known_from: str


class Layout(Protocol):
    """What a module of this package defines to be a layout."""

    def recognises(self, source: Source) -> bool:
        """Whether a file has this layout, by its names and what lies beside it."""
        ...

    def rename(self, key: str) -> str:
        """What a key of a state dict of `models.architectures` is called there."""
        ...

    def check(self, source: Source, arch: str) -> None:
        """Refuse networks that have the same tensors, or nearly, and compute something else.

        Raises:
            ForeignWeights: it is not the architecture of that name.
        """
        ...

    def trained(self, source: Source) -> Trained:
        """The preprocessing that the weights are used with.

        Raises:
            ForeignWeights: what is beside the file asks for something that cannot be done.
        """
        ...

    def labels(self, source: Source) -> Sequence[str] | None:
        """Names of the classes, where the files say them."""
        ...


def prepared(values: Mapping[str, Any]) -> Preprocess:
    """The preprocessing of these fields.

    Raises:
        ForeignWeights: they do not go together.
    """
    try:
        return Preprocess.model_validate(values)
    except ValidationError as error:
        raise ForeignWeights(f"preprocessing: {first_error(error)}") from error
