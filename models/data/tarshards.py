"""Tar shards in the layout of WebDataset: https://github.com/webdataset/webdataset.

Members with the same name up to the first dot are one sample: `0001.jpg` with `0001.cls`, the class as a number in
text, or with `0001.json`, an object with the number as "label". The headers are read once, and images are then read
from their place in the shard. Nothing is unpacked, so names in a shard are never used as paths.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.console import print_once
from models.data.dataset import DataError, Split, check_labels, read_names
from models.data.files import DEFAULT_GEOMETRY, SPLIT_NAMES, EncodedDataset
from models.files import decode_text
from models.imaging.image_files import SUFFIXES, Skipped
from models.imaging.preprocess import Geometry

DESCRIPTION = "tar shards: train*.tar or *-train-*.tar, and the same with test or val"

# A member's path as WebDataset splits it: the key, then the extension. Names with a leading dot have no key.
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_LABELS = ("cls", "json")
# Without names there are as many classes as the highest label; a damaged label must not create billions of them.
_MAX_CLASSES = 1_000_000
_BLOCK = 512


class Member(NamedTuple):
    """A file inside a shard."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The content of the file. Raises OSError."""
        with self.shard.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.size, self.offset)
        if len(data) != self.size:
            raise OSError(f"the shard ends after {len(data)} of its {self.size} bytes")
        return data

    def __str__(self) -> str:
        return f"{self.shard}: member {self.name!r}"


@dataclass(frozen=True)
class TarShards(EncodedDataset):
    """Image files inside tar files."""

    members: tuple[Member, ...]

    def read(self, index: int) -> bytes:
        return self.members[index].read()

    def where(self, index: int) -> str:
        return str(self.members[index])


def matches(folder: Path) -> bool:
    return any(_shards(folder, split) for split in SPLIT_NAMES)


def load(folder: Path, split: Split, geometry: Geometry | None) -> TarShards:
    """Images in `geometry`, or `DEFAULT_GEOMETRY`.

    Class names come from `labels.txt`, one per line. Without the file they are numbers, and the shards of the training
    split are always read, too, to count them.

    Prints what is skipped, and why.

    Raises:
        DataError: shards of the split are missing, a shard is damaged, or a sample cannot be used.
    """
    skipped = Skipped()
    samples = _split_samples(folder, split, skipped)
    if not samples:
        raise DataError(f"{folder}: the shards of the {split} split, {' or '.join(SPLIT_NAMES[split])}, hold no images")
    labels = np.array([label for _, label in samples], np.int64)
    if (names := folder / "labels.txt").is_file():
        classes = read_names(names)
        check_labels(labels, classes, folder)
    else:
        training = samples if split == "train" else _split_samples(folder, "train", Skipped())
        classes = tuple(str(number) for number in range(1 + max(label for _, label in training or samples)))
        check_labels(labels, classes, folder)
    for shard in sorted({*_tars(folder)}.difference(*(_shards(folder, each) for each in SPLIT_NAMES))):
        skipped.add("not used as a shard of a split", shard)
    if line := str(skipped):
        print_once(line)
    members = tuple(member for member, _ in samples)
    return TarShards(folder.resolve().name, classes, labels, geometry or DEFAULT_GEOMETRY, members)


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if path.is_file())


def _shards(folder: Path, split: Split) -> list[Path]:
    return next((found for name in SPLIT_NAMES[split] if (found := _named(folder, name))), [])


def has_split(folder: Path, name: str) -> bool:
    """Whether there are shards of a split by this name."""
    return bool(_named(folder, name))


def _named(folder: Path, word: str) -> list[Path]:
    return [path for path in _tars(folder) if path.name.startswith(word) or f"-{word}-" in path.name]


def _split_samples(folder: Path, split: Split, skipped: Skipped) -> list[tuple[Member, int]]:
    return [sample for shard in _shards(folder, split) for sample in _samples(shard, skipped)]


def _samples(shard: Path, skipped: Skipped) -> Iterator[tuple[Member, int]]:
    """Image and label of each sample, in the shard's order."""
    groups: dict[str, dict[str, Member]] = {}
    for member in _members(shard):
        if (match := _NAME.fullmatch(member.name)) is None:
            skipped.add("hidden", str(member))
            continue
        key, extension = match[1], match[2].lower()
        if groups.setdefault(key, {}).setdefault(extension, member) is not member:
            raise DataError(f"{member}: occurs twice")
    for key, group in groups.items():
        images = [member for extension, member in group.items() if f".{extension}" in SUFFIXES]
        if not images and "cls" not in group:
            skipped.add("without an image", str(next(iter(group.values()))))
            continue
        if len(images) != 1:
            raise DataError(f"{shard}: sample {key!r} has {len(images)} images, not one")
        yield images[0], _label(images[0], group)


def _label(image: Member, group: dict[str, Member]) -> int:
    found = [group[extension] for extension in _LABELS if extension in group]
    if not found:
        raise DataError(f"{image}: has no label: add a member of the same name with the extension .cls or .json")
    try:
        data = found[0].read()
        label = int(decode_text(data)) if "cls" in group else json.loads(decode_text(data))["label"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{found[0]}: holds no label: {type(error).__name__}: {error}") from error
    if type(label) is not int or not 0 <= label < _MAX_CLASSES:
        raise DataError(f"{found[0]}: its label is {label!r}, not the number of a class, counted from 0")
    return label


def _members(shard: Path) -> Iterator[Member]:
    """The plain files of a tar file, from its headers alone."""
    try:
        with tarfile.open(shard, "r:") as archive:
            while (info := archive.next()) is not None:
                if info.size < 0:  # tarfile would go backwards in an endless loop
                    raise DataError(f"{shard}: is damaged in member {info.name!r}: download it again")
                if info.isreg() and not info.issparse():
                    yield Member(shard, info.name, info.offset_data, info.size)
            closing = archive.offset
        # tarfile takes a damaged header for the end, but the real end is a block of zeros.
        if Member(shard, "end of archive", closing, _BLOCK).read() != bytes(_BLOCK):
            raise DataError(f"{shard}: is damaged at byte {closing}: download it again")
    except DataError:
        raise
    except (tarfile.TarError, OSError, ValueError, IndexError, OverflowError) as error:
        raise DataError(f"{shard}: is damaged or not a tar file: {error}: download it again") from error
