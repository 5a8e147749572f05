"""The shared parts of data sets of image files: files are listed at first and decoded on access."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.dataset import DataError, Indices, Split, read_images
from models.imaging import images
from models.imaging.preprocess import Geometry, UInt8Array

DEFAULT_GEOMETRY = Geometry(size=(224, 224), resize=256, mode="RGB")

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
"""Names of a split on disk. If a data set has several of them, the first is used, and a line names the others."""


@dataclass(frozen=True)
class EncodedDataset(ABC):
    """Labelled image files; each format reads their bytes."""

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    geometry: Geometry

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The bytes of an image file. Raises OSError."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The place of an image file, for messages."""

    def images(self, indices: Indices) -> UInt8Array:
        """The images at these indices, uint8 [len(indices), H, W, C].

        Raises:
            DataError: a file cannot be read or decoded; the message names the file.
        """
        return read_images(indices, self.geometry, self._decode)

    def _decode(self, index: int) -> Image.Image:
        try:
            return images.decode(self.read(index), self.geometry.mode)
        except OSError as error:
            raise DataError(f"{self.where(index)}: cannot be read: {error.strerror or error}") from error
        except images.ImageError as error:
            raise DataError(f"{self.where(index)}: {error}") from error
