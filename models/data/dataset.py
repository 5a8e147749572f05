"""The interface of all data sets, and their shared parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.files import decode_text
from models.imaging.images import to_mode
from models.imaging.preprocess import Geometry, UInt8Array

_threads = os.cpu_count()
"""Threads that decode and resize."""

Split = Literal["train", "validation", "test"]
Indices = NDArray[np.int64]
Wanted = TypeVar("Wanted")
Batch = TypeVar("Batch")


class DataError(ValueError):
    """A data set is missing, has no known format or is damaged; the message has the file and the reason."""


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
        """Size and colour mode of `images`."""
        ...

    def images(self, indices: Indices) -> UInt8Array:
        """The images at these indices, uint8 [len(indices), H, W, C].

        Raises:
            DataError: an image cannot be read or decoded.
        """
        ...

    def image(self, index: int) -> Image.Image:
        """One image in the mode of `geometry`, before it is resized and cropped.

        Raises:
            DataError: the image cannot be read or decoded.
        """
        ...


@dataclass(frozen=True)
class ArrayDataset:
    """A data set in memory as one array, uint8 [n, H, W, C].

    If `requested` changes the images of the array, they are converted on access: 50,000 images of 32 x 32 take 150 MB,
    and 7.5 GB at 224 x 224.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    array: UInt8Array
    requested: Geometry | None = None

    @cached_property
    def geometry(self) -> Geometry:
        height, width, channels = self.array.shape[1:]
        stored = Geometry(size=(height, width), mode="L" if channels == 1 else "RGB")
        asked = self.requested
        if asked is None or (asked.shape == stored.shape and asked.resize in (None, min(asked.size))):
            return stored
        return asked

    def images(self, indices: Indices) -> UInt8Array:
        geometry = self.geometry
        if geometry.resize is None and geometry.shape == self.array.shape[1:]:
            return self.array[indices]
        return read_images(indices, geometry, self.image)

    def image(self, index: int) -> Image.Image:
        # Pillow takes grey without a channel axis.
        pixels = self.array[index, ..., 0] if self.array.shape[-1] == 1 else self.array[index]
        return to_mode(Image.fromarray(pixels), self.geometry.mode)


@dataclass(frozen=True)
class DatasetView:
    """Base of data sets that give the images of another one."""

    source: Dataset

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def geometry(self) -> Geometry:
        return self.source.geometry


@dataclass(frozen=True)
class Subset(DatasetView):
    """Images of another data set, in the order of their indices."""

    indices: Indices

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return self.source.labels[self.indices]

    def images(self, indices: Indices) -> UInt8Array:
        return self.source.images(self.indices[indices])

    def image(self, index: int) -> Image.Image:
        return self.source.image(int(self.indices[index]))


def read_ahead(read: Callable[[Wanted], Batch], batches: Iterable[Wanted], reader: Executor) -> Iterator[Batch]:
    """The batches that `read` gives, in order; `reader` reads the next batch while the caller uses one.

    Raises:
        DataError: an image cannot be read; raised at its batch, not before.
    """
    submitted = (reader.submit(read, wanted) for wanted in batches)
    following = next(submitted, None)
    while following is not None:
        batch = following
        following = next(submitted, None)
        yield batch.result()


def read_images(indices: Indices, geometry: Geometry, read: Callable[[int], Image.Image]) -> UInt8Array:
    """Read images in the mode of `geometry` on all cores, and resize and crop them: uint8 [len(indices), H, W, C]."""
    return fill_images(len(indices), geometry.shape, lambda position: geometry.apply(read(int(indices[position]))))


def fill_images(count: int, shape: tuple[int, int, int], make: Callable[[int], UInt8Array]) -> UInt8Array:
    """Make the image of each position, on all cores: uint8 [count, H, W, C].

    Threads suffice, because Pillow releases the interpreter lock while it decodes and resizes.
    """
    images = np.empty((count, *shape), np.uint8)

    def place(position: int) -> None:
        images[position] = make(position)

    # A pool per call costs microseconds, and there is nothing to close later.
    with ThreadPoolExecutor(_threads) as pool:
        for _ in pool.map(place, range(count)):
            pass
    return images


def use_threads(count: int) -> None:
    """Decode and resize in this number of threads from now on."""
    global _threads
    _threads = count


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one per line, without empty lines.

    Raises:
        DataError: the file is missing or is no text.
    """
    try:
        lines = decode_text(path.read_bytes()).splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def check_labels(labels: NDArray[np.int64], classes: tuple[str, ...], where: Path) -> None:
    """Check that every label has a class name.

    Raises:
        DataError: a label has none.
    """
    if labels.max(initial=-1) >= len(classes):
        raise DataError(f"{where}: holds label {labels.max()}, but there are only {len(classes)} class names")
