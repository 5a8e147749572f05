"""Matches the classes of a data set with those of a network, by their names."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.dataset import DataError, Dataset, Indices, Subset
from models.imaging.preprocess import Geometry, UInt8Array

_MAX_LISTED = 5


@dataclass(frozen=True)
class Relabelled:
    """A data set with the classes of a network."""

    source: Dataset
    classes: tuple[str, ...]
    labels: NDArray[np.int64]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def geometry(self) -> Geometry:
        return self.source.geometry

    def images(self, indices: Indices) -> UInt8Array:
        return self.source.images(indices)

    def image(self, index: int) -> Image.Image:
        return self.source.image(index)


def underlying(data: Dataset) -> Dataset:
    """The data set that holds the images, behind a choice of some and other classes."""
    while isinstance(data, Subset | Relabelled):
        data = data.source
    return data


def match_classes(data: Dataset, labels: Sequence[str], *, by_position: bool = False) -> Dataset:
    """The data set with the classes of a network, which may be more, and in another order.

    Names that differ only in letter case, blanks and punctuation match: no folder can be called "T-shirt/top".

    Args:
        data: the data set.
        labels: names of the network's classes.
        by_position: ignore the names, and take the first class of the data set for the first class of the network.

    Raises:
        DataError: the data set has a class that the network does not have, or another number with `by_position`.
    """
    if data.classes == tuple(labels):
        return data
    if by_position:
        if len(data.classes) != len(labels):
            raise DataError(f"{data.name}: has {len(data.classes)} classes, the network has {len(labels)}")
        return Relabelled(data, tuple(labels), data.labels)
    positions = _positions(data.classes, labels)
    unknown = [name for name, position in zip(data.classes, positions, strict=True) if position is None]
    if unknown:
        raise DataError(
            f"{data.name}: {len(unknown)} of its {len(data.classes)} classes are not classes of the network: "
            f"{_listed(unknown)} (the network has {_listed(labels)}): rename them, or give --by-position if both have "
            "the same classes in the same order"
        )
    found = np.array(positions, np.int64)
    if len(np.unique(found)) < len(found):
        raise DataError(f"{data.name}: several of its classes are the same class of the network: {_listed(labels)}")
    return Relabelled(data, tuple(labels), found[data.labels])


def _positions(names: Sequence[str], labels: Sequence[str]) -> list[int | None]:
    """For each name the position of the only label with this name, or of the only one with its letters and digits."""
    exact, similar = _unique(labels, str), _unique(labels, _letters)
    return [exact.get(name, similar.get(_letters(name))) for name in names]


def _unique(labels: Sequence[str], key: Callable[[str], str]) -> dict[str, int]:
    """Positions of the labels by their keys, without keys that several labels have."""
    counts = Counter(map(key, labels))
    return {key(label): position for position, label in enumerate(labels) if counts[key(label)] == 1}


def _letters(name: str) -> str:
    # Some file systems decompose letters with accents.
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name)).casefold() or name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(repr, names[:_MAX_LISTED])) + more
