"""The shared parts of data sets of image files: files are listed at first and decoded on access."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.classes import underlying
from models.data.dataset import DataError, Dataset, Indices, Split, read_images
from models.imaging import images
from models.imaging.preprocess import Geometry, UInt8Array
from models.progress import progress_bar

_LISTED = 20
"""Damaged files that a message names; it counts the others."""
_CHUNK = 256


def centre_crop(size: int) -> Geometry:
    """A square of `size` pixels from the centre, in colour, after the shorter side is scaled to 256/224 of it."""
    return Geometry(size=(size, size), resize=round(size * 256 / 224), mode="RGB")


DEFAULT_GEOMETRY = centre_crop(224)

_VALIDATION = ("val", "valid", "validation")
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": _VALIDATION,
    "test": ("test", *_VALIDATION),
}
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
        return read_images(indices, self.geometry, self.image)

    def image(self, index: int) -> Image.Image:
        """One image in the mode of `geometry`, before it is resized and cropped. Raises DataError."""
        return self._decode(index)

    def check(self, index: int) -> str | None:
        """The reason why an image cannot be used, with its place; None if it can. Cheaper than `images`."""
        try:
            self._decode(index, smallest=1)
        except DataError as error:
            return str(error)
        return None

    def _decode(self, index: int, smallest: int | None = None) -> Image.Image:
        """Decode an image; a JPEG file at a fraction of its size, with a shorter side of `smallest` pixels or more."""
        try:
            return images.decode_reduced(self.read(index), self.geometry.mode, smallest).image
        except OSError as error:
            raise DataError(f"{self.where(index)}: cannot be read: {error.strerror or error}") from error
        except images.ImageError as error:
            raise DataError(f"{self.where(index)}: {error}") from error


def check_images(*datasets: Dataset | None) -> None:
    """Decode every image file once, on all CPUs. Data sets of arrays have nothing to check.

    Raises:
        DataError: images cannot be read or decoded; the message has all of them, or the first `_LISTED`.
    """
    sources = [underlying(data) for data in datasets if data is not None]
    encoded = [data for data in sources if isinstance(data, EncodedDataset)]
    total, done = sum(len(data.labels) for data in encoded), 0
    reasons: list[str] = []
    with progress_bar("checking images", total) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for data in encoded:
            for first in range(0, len(data.labels), _CHUNK):
                indices = range(first, min(first + _CHUNK, len(data.labels)))
                reasons += filter(None, pool.map(data.check, indices))
                progress.update(done := done + len(indices))
    if reasons:
        others = [f"and {len(reasons) - _LISTED:,} more"] if len(reasons) > _LISTED else []
        lines = "\n  ".join([*reasons[:_LISTED], *others])
        raise DataError(f"{len(reasons):,} of {total:,} images cannot be used; replace or remove them:\n  {lines}")
