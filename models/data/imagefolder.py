"""Image files with one folder per class, as in torchvision's `ImageFolder`.

FOLDER/train/CLASS/**/*.jpg with FOLDER/test/CLASS/... (or val, or validation); or only FOLDER/CLASS/**/*.jpg, where a
fixed tenth is the test split: https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.console import print_once
from models.data.dataset import DataError, Split
from models.data.files import DEFAULT_GEOMETRY, SPLIT_NAMES, EncodedDataset
from models.imaging.image_files import Skipped, find_images, has_image_name
from models.imaging.preprocess import Geometry

DESCRIPTION = "image files: train/CLASS/*.jpg and test/CLASS/*.jpg (or val/, validation/), or CLASS/*.jpg"


@dataclass(frozen=True)
class ImageFolder(EncodedDataset):
    """Image files below a folder."""

    root: Path
    files: tuple[str, ...]
    """Paths relative to `root`."""

    def read(self, index: int) -> bytes:
        return (self.root / self.files[index]).read_bytes()

    def where(self, index: int) -> str:
        return str(self.root / self.files[index])


def matches(folder: Path) -> bool:
    if any(_split_folder(folder, split) is not None for split in SPLIT_NAMES):
        return True
    # Deeper images do not count: a folder of several data sets is no data set.
    return any(has_image_name(path.name) for name in _class_names(folder) for path in (folder / name).iterdir())


def load(folder: Path, split: Split, geometry: Geometry | None) -> ImageFolder:
    """Images in `geometry`, or `DEFAULT_GEOMETRY`; classes are the sorted names of the (training) class folders.

    Prints what is skipped, and why.

    Raises:
        DataError: the split is missing, a class has no training images or no name in UTF-8, a folder cannot be read, or
            the test split has a class of its own.
    """
    skipped = Skipped()
    train, test = _split_folder(folder, "train"), _split_folder(folder, "test")
    if train is None and test is None:
        root, classes = folder, _class_names(folder)
        files = [file for file in _files(root, classes, skipped) if _is_test(file[0]) == (split == "test")]
        if not files:
            raise DataError(f"{folder}: too few images for a {split} split: make the folders train and test")
        present = {label for _, label in files}
        lacking = [name for label, name in enumerate(classes) if label not in present]
        if lacking and split == "train":
            raise DataError(
                f"{folder / lacking[0]}: all of its few images are in the tenth that is the test split: "
                "make the folders train and test"
            )
    else:
        validation = _split_folder(folder, "validation")
        chosen = {"train": train, "validation": validation, "test": test}[split]
        if chosen is None:
            raise DataError(f"{folder}: there are no class folders in {' or '.join(SPLIT_NAMES[split])}")
        root, classes = chosen, _class_names(train or chosen)
        for name in _class_names(root):
            if name not in classes:
                raise DataError(f"{root / name}: is not a class of the training split, {train}")
        files = list(_files(root, classes, skipped, may_lack=split != "train"))
        if unused := sorted(path.name for path in _folders(folder) - {train, validation, test}):
            used = dict.fromkeys(path.name for path in (train, validation, test) if path)
            print_once(f"skipped: {', '.join(unused)} in {folder}, beside the splits {' and '.join(used)}")
    for name in classes:
        _check_class_name(root / name)
    _report(root, skipped)
    labels = np.array([label for _, label in files], np.int64)
    return ImageFolder(
        folder.resolve().name, classes, labels, geometry or DEFAULT_GEOMETRY, root, tuple(file for file, _ in files)
    )


def has_split(folder: Path, name: str) -> bool:
    """Whether a folder of this name has class folders: a class may be called "train", too."""
    root = folder / name
    return any(True for _ in _files(root, _class_names(root), Skipped(), may_lack=True))


def _split_folder(folder: Path, split: Split) -> Path | None:
    return next((folder / name for name in SPLIT_NAMES[split] if has_split(folder, name)), None)


def _folders(root: Path) -> set[Path]:
    return {path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}


def _class_names(root: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in _folders(root))) if root.is_dir() else ()


def _check_class_name(folder: Path) -> None:
    """Labels are written as JSON, which has no other characters than those of Unicode."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{folder}: its name, which is that of a class, is not UTF-8: rename it") from None


def _files(root: Path, classes: tuple[str, ...], skipped: Skipped, may_lack: bool = False) -> Iterator[tuple[str, int]]:
    """(path relative to `root`, label) of each image, sorted within its class."""
    for label, name in enumerate(classes):
        count = 0
        if not may_lack or (root / name).is_dir():
            for file in find_images(root / name, skipped):
                count += 1
                yield f"{name}/{file}", label
        if count == 0 and not may_lack:
            nothing = f"{root / name}: holds no images, and every folder at this level is a class"
            raise DataError("; ".join(skipped.unreadable) or nothing)


def _report(root: Path, skipped: Skipped) -> None:
    """Refuse what cannot be read, and print what else is skipped, with the entries of `root` that are no classes."""
    if skipped.unreadable:
        raise DataError("; ".join(skipped.unreadable))
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            skipped.add("hidden", path)
        elif not path.is_dir() and has_image_name(path.name):
            skipped.add("outside the folders of the classes", path)
    if line := str(skipped):
        print_once(line)


def _is_test(file: str) -> bool:
    """One file in ten, by its name alone: a file keeps its split if others are added or removed."""
    return int.from_bytes(hashlib.sha256(os.fsencode(file)).digest()[:8], "big") % 10 == 0
