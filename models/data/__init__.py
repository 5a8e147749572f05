"""Data sets, in formats that are detected from the files of a folder.

One module per format; a new format is a new module and a line in `_FORMATS`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from models.data import cifar, idx, imagefolder, tarshards
from models.data.classes import match_classes
from models.data.dataset import ArrayDataset, DataError, Dataset, Indices, Split, Subset, read_ahead
from models.data.files import SPLIT_NAMES, EncodedDataset, centre_crop
from models.imaging.preprocess import Geometry

__all__ = [
    "ArrayDataset",
    "DataError",
    "Dataset",
    "Indices",
    "Split",
    "Subset",
    "load",
    "load_held_out",
    "match_classes",
    "read_ahead",
]


class _Format(Protocol):
    @property
    def DESCRIPTION(self) -> str: ...
    def matches(self, folder: Path) -> bool: ...
    def load(self, folder: Path, split: Split, geometry: Geometry | None) -> Dataset: ...


_FORMATS: tuple[_Format, ...] = (idx, cifar, imagefolder, tarshards)


def load(folder: Path, split: Split, geometry: Geometry | None = None, *, file_size: int = 224) -> Dataset:
    """The training or the test split of the data set in a folder.

    Args:
        folder: a data set in one of the formats of this package.
        split: the split; images of the test split are never used for a choice.
        geometry: size and colour mode of the images. By default, arrays keep theirs, and image files are in colour,
            cropped from the centre to `file_size`.
        file_size: height and width of image files in pixels, if there is no `geometry`. Their shorter side is scaled to
            256/224 of it before the crop.

    Raises:
        DataError: the folder does not exist, has no known format or several, or has missing or damaged files or no
            images. Image files are decoded on access, so `images` reports a damaged one.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    if geometry is not None:
        # Callers pass the Preprocess of a checkpoint; data sets do not use its mean and std.
        geometry = Geometry(**geometry.model_dump(include=set(Geometry.model_fields)))
    try:
        dataset = _format_of(folder).load(folder, split, geometry)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from error
    if geometry is None and isinstance(dataset, EncodedDataset):
        dataset = replace(dataset, geometry=centre_crop(file_size))
    if len(dataset.labels) == 0:
        raise DataError(f"{folder}: the {split} split holds no images")
    return dataset


def load_held_out(
    folder: Path, geometry: Geometry | None = None, *, file_size: int = 224
) -> tuple[Dataset | None, Dataset | None]:
    """The validation and the test split, for training: choices are made on the first, the second is only reported on.

    Without a folder or shards of its own for testing, a validation split is no test split. A data set of a training
    split only has neither. Raises as `load`.
    """
    formats = (imagefolder, tarshards, idx)

    def has(split: str) -> bool:
        return any(each.has_split(folder, split) for each in formats)

    validates = any(has(name) for name in SPLIT_NAMES["test"] if name != "test")
    tests = has("test") or not (validates or has("train"))
    return (
        load(folder, "validation", geometry, file_size=file_size) if validates else None,
        load(folder, "test", geometry, file_size=file_size) if tests else None,
    )


def _format_of(folder: Path) -> _Format:
    found = [candidate for candidate in _FORMATS if candidate.matches(folder)]
    if len(found) == 1:
        return found[0]
    holds = "more than one data set" if found else "no data set of a known format"
    formats = "; ".join(candidate.DESCRIPTION for candidate in found or _FORMATS)
    raise DataError(f"{folder}: holds {holds} ({formats}): give a folder with one")
