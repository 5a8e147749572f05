"""What every data set gives, whatever its files look like."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.imaging.images import to_mode
from models.imaging.preprocess import Geometry, UInt8Array

Split = Literal["train", "test"]
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

    @property
    def geometry(self) -> Geometry:
        """How `images` come to their size and colour mode."""
        ...

    def images(self, indices: Indices) -> UInt8Array:
        """The images at these places, uint8 [len(indices), H, W, C].

        Raises:
            DataError: one of them cannot be read or decoded.
        """
        ...


@dataclass(frozen=True)
class ArrayDataset:
    """A data set that lies in memory as one array, uint8 [n, H, W, C].

    Where `requested` differs from the array in size or mode, images are brought to it as they are asked for:
    50,000 images of 32 x 32 are 150 MB, at 224 x 224 they would be 7.5 GB.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    array: UInt8Array
    requested: Geometry | None = None

    @property
    def geometry(self) -> Geometry:
        height, width, channels = self.array.shape[1:]
        stored = Geometry(size=(height, width), mode="L" if channels == 1 else "RGB")
        return stored if self.requested is None or self.requested.shape == stored.shape else self.requested

    def images(self, indices: Indices) -> UInt8Array:
        geometry = self.geometry
        if geometry.shape == self.array.shape[1:]:
            return self.array[indices]
        # Pillow takes grey without a channel axis.
        pixels = self.array[..., 0] if self.array.shape[-1] == 1 else self.array
        return gather(indices, geometry, lambda index: to_mode(Image.fromarray(pixels[index]), geometry.mode))


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

    @property
    def geometry(self) -> Geometry:
        return self.source.geometry

    def images(self, indices: Indices) -> UInt8Array:
        return self.source.images(self.indices[indices])


class Batch(NamedTuple):
    """Images uint8 [n, H, W, C] and their classes int64 [n]."""

    images: UInt8Array
    labels: NDArray[np.int64]


def read_ahead(data: Dataset, batches: Iterable[Indices], reader: Executor) -> Iterator[Batch]:
    """The batches at these indices, in order; while the caller uses one, `reader` reads the next.

    Raises:
        DataError: an image cannot be read; raised where its batch is due, not before.
    """
    labels = data.labels
    submitted = ((indices, reader.submit(data.images, indices)) for indices in batches)
    following = next(submitted, None)
    while following is not None:
        indices, images = following
        following = next(submitted, None)
        yield Batch(images.result(), labels[indices])


def gather(indices: Indices, geometry: Geometry, read: Callable[[int], Image.Image]) -> UInt8Array:
    """Read images, already in the mode of `geometry`, on all cores: uint8 [len(indices), H, W, C].

    Threads are enough: Pillow lets go of the interpreter lock while it decodes and resizes.
    """
    images = np.empty((len(indices), *geometry.shape), np.uint8)

    def place(position: int) -> None:
        images[position] = geometry.apply(read(int(indices[position])))

    # A pool a call costs microseconds and leaves nothing to close.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(place, range(len(indices))):
            pass
    return images


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line; empty lines do not count.

    Raises:
        DataError: the file is missing or is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def check_labels(labels: NDArray[np.int64], classes: tuple[str, ...], where: Path) -> None:
    """Raises DataError where a label has no class name."""
    if labels.max(initial=-1) >= len(classes):
        raise DataError(f"{where}: holds label {labels.max()}, but there are only {len(classes)} class names")
