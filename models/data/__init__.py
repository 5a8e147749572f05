"""Data sets, found by looking at what a folder holds. One file a format; a new format is a new file and a line here."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from models.data import cifar, idx, imagefolder, tarshards
from models.data.dataset import ArrayDataset, Batch, DataError, Dataset, Indices, Split, Subset, read_ahead
from models.imaging.preprocess import Geometry

__all__ = ["ArrayDataset", "Batch", "DataError", "Dataset", "Indices", "Split", "Subset", "load", "read_ahead"]


class _Format(Protocol):
    @property
    def DESCRIPTION(self) -> str: ...
    def matches(self, folder: Path) -> bool: ...
    def load(self, folder: Path, split: Split, geometry: Geometry | None) -> Dataset: ...


_FORMATS: tuple[_Format, ...] = (idx, cifar, imagefolder, tarshards)


def load(folder: Path, split: Split, geometry: Geometry | None = None) -> Dataset:
    """The training or the test split of the data set in a folder.

    Args:
        folder: a data set in one of the formats of this package.
        split: images of the test split are never used for a choice.
        geometry: what the images are brought to. Without it, arrays stay as they are stored and image files become
            224 x 224 in colour, cut from the middle after the shorter side is scaled to 256.

    Raises:
        DataError: no such folder, no known format or more than one, files that are missing or damaged, no images.
            Image files are decoded when they are asked for: a damaged one is found by `images`.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    if geometry is not None:
        # Callers pass a checkpoint's Preprocess; its mean and std are no part of what a data set does.
        geometry = Geometry(**geometry.model_dump(include=set(Geometry.model_fields)))
    try:
        dataset = _format_of(folder).load(folder, split, geometry)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from error
    if len(dataset.labels) == 0:
        raise DataError(f"{folder}: the {split} split holds no images")
    return dataset


def _format_of(folder: Path) -> _Format:
    found = [candidate for candidate in _FORMATS if candidate.matches(folder)]
    if len(found) == 1:
        return found[0]
    holds = "more than one data set" if found else "no data set that is known here"
    formats = "; ".join(candidate.DESCRIPTION for candidate in found or _FORMATS)
    raise DataError(f"{folder}: holds {holds} ({formats}): give a folder that holds one")
