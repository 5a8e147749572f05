"""What data sets of image files have in common: files are found at once and decoded when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.dataset import DataError, Indices, Split, gather
from models.imaging import images
from models.imaging.preprocess import Geometry, UInt8Array

DEFAULT_GEOMETRY = Geometry(size=(224, 224), resize=256, mode="RGB")

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}
"""What a split is called on disk. Where a data set has several for one split, the first is used."""

SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in images.FORMATS)
"""Lower case, with the dot, of all formats that are decoded."""


@dataclass(frozen=True)
class EncodedDataset(ABC):
    """Labelled image files. A format says where the bytes of each are."""

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    geometry: Geometry

    @abstractmethod
    def read(self, index: int) -> bytes:
        """One image file. Raises OSError."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The file's place, for messages."""

    def images(self, indices: Indices) -> UInt8Array:
        """The images at these places, uint8 [len(indices), H, W, C].

        Raises:
            DataError: a file cannot be read or decoded; the message names it.
        """
        return gather(indices, self.geometry, self._decode)

    def _decode(self, index: int) -> Image.Image:
        try:
            return images.decode(self.read(index), self.geometry.mode)
        except OSError as error:
            raise DataError(f"{self.where(index)}: cannot be read: {error.strerror or error}") from error
        except images.ImageError as error:
            raise DataError(f"{self.where(index)}: {error}") from error
