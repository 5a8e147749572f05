"""Data sets, found by looking at what a folder holds. One file a format; a new format is a new file and a line here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from models.data import idx
from models.data.dataset import ArrayDataset, DataError, Dataset, Subset

__all__ = ["ArrayDataset", "DataError", "Dataset", "Split", "Subset", "load"]

Split = Literal["train", "test"]


class _Format(Protocol):
    DESCRIPTION: str

    def matches(self, folder: Path) -> bool: ...
    def load(self, folder: Path, split: Split) -> Dataset: ...


_FORMATS: tuple[_Format, ...] = (idx,)


def load(folder: Path, split: Split) -> Dataset:
    """The training or the test split of the data set in a folder.

    Raises:
        DataError: no such folder, no known format, or files that are missing or damaged.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    for candidate in _FORMATS:
        if candidate.matches(folder):
            return candidate.load(folder, split)
    known = "; ".join(candidate.DESCRIPTION for candidate in _FORMATS)
    raise DataError(f"{folder}: holds no data set that is known here ({known})")
