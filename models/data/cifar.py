"""CIFAR-10 and CIFAR-100, binary versions: https://www.cs.toronto.edu/~kriz/cifar.html.

A file is a sequence of records of one size: the label (CIFAR-100: the coarse, then the fine label), then 32 x 32 red,
green and blue values, each plane row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import ArrayDataset, DataError, Split, check_labels, read_names
from models.imaging.preprocess import Geometry

DESCRIPTION = "CIFAR-10 or CIFAR-100, binary version: data_batch_1.bin or train.bin and its companions"

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Variant:
    name: str
    folder: str
    """Folder in the archive."""
    files: dict[Split, tuple[str, ...]]
    names: str
    marks: tuple[str, ...]
    """Files that identify this variant."""
    label_bytes: int
    """Bytes before the pixels; the last one is the label in use."""


_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_VARIANTS = (
    _Variant(
        name="cifar-10",
        folder="cifar-10-batches-bin",
        files={"train": _BATCHES, "test": ("test_batch.bin",)},
        names="batches.meta.txt",
        marks=(*_BATCHES, "test_batch.bin"),
        label_bytes=1,
    ),
    _Variant(
        name="cifar-100",
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        names="fine_label_names.txt",
        # Other data sets have a train.bin, too.
        marks=("fine_label_names.txt",),
        label_bytes=2,
    ),
)


def matches(folder: Path) -> bool:
    return bool(_find(folder))


def load(folder: Path, split: Split, geometry: Geometry | None) -> ArrayDataset:
    """Images uint8 [n, 32, 32, 3]; the classes of CIFAR-100 are the 100 fine ones.

    Raises:
        DataError: a file is missing or damaged, or the folder has both data sets.
    """
    found = _find(folder)
    if len(found) > 1:
        raise DataError(f"{folder}: holds {' and '.join(place.name for _, place in found)}: give one of them")
    variant, place = found[0]
    classes = read_names(place / variant.names)
    parts = [_read(place / file, variant.label_bytes) for file in variant.files[split]]
    labels = np.concatenate([labels for labels, _ in parts])
    check_labels(labels, classes, place)
    return ArrayDataset(variant.name, classes, labels, np.concatenate([images for _, images in parts]), geometry)


def _find(folder: Path) -> list[tuple[_Variant, Path]]:
    """Each variant with its folder: the given folder, or the archives' folders in it."""

    def among(places: dict[str, Path]) -> list[tuple[_Variant, Path]]:
        return [
            (variant, places[variant.name])
            for variant in _VARIANTS
            if any((places[variant.name] / mark).is_file() for mark in variant.marks)
        ]

    return among({variant.name: folder for variant in _VARIANTS}) or among(
        {variant.name: folder / variant.folder for variant in _VARIANTS}
    )


def _read(path: Path, label_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels int64 [n] and images uint8 [n, 32, 32, 3] of one file."""
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: is missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    record = label_bytes + _PIXELS
    if len(data) == 0 or len(data) % record:
        raise DataError(f"{path}: has {len(data)} bytes, not a multiple of {record}: download it again")
    records = data.reshape(-1, record)
    planes = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return records[:, label_bytes - 1].astype(np.int64), np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
