"""What every data set gives, whatever its files look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.preprocess import UInt8Array

Indices = NDArray[np.int64]


class DataError(ValueError):
    """A data set folder is missing, of no known format, or damaged; the message names the file and the reason."""


class Dataset(Protocol):
    """Labelled images of one size."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, int64 [n]."""
        ...

    def images(self, indices: Indices) -> UInt8Array:
        """The images at these places, uint8 [len(indices), H, W, C]."""
        ...


@dataclass(frozen=True)
class ArrayDataset:
    """A data set that lies in memory as one array, uint8 [n, H, W, C]."""

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    array: UInt8Array

    def images(self, indices: Indices) -> UInt8Array:
        return self.array[indices]


@dataclass(frozen=True)
class Subset:
    """Some images of another data set, in the order given."""

    source: Dataset
    indices: Indices

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.source.labels[self.indices]

    def images(self, indices: Indices) -> UInt8Array:
        return self.source.images(self.indices[indices])
