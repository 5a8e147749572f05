"""Which files of a folder are images: one rule for training and for offline scoring. No torch.

- an image has the suffix of an accepted format, in any case: .jpg, .jfif, .PNG, ...;
- files and folders whose name begins with a dot are skipped: archives from macOS have a "._cat.jpg" beside each file;
- links to files and to folders are followed, except for a link to a folder that the link is in.

All that is skipped is counted by its reason, so that nothing is left out silently.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from models.imaging import images
from models.imaging.formats import process
from models.imaging.sorted_entries import Entry, sort_entries

_KNOWN = Image.registered_extensions() | process.SUFFIXES
SUFFIXES = frozenset(suffix for suffix, name in _KNOWN.items() if name in images.FORMATS)
"""File name suffixes of all accepted formats, in lower case with the dot."""
MAX_PATHS = 1000
"""Most paths of each reason that `Skipped` keeps."""


@dataclass
class Skipped:
    """Files and folders that were left out, by the reason."""

    paths: dict[str, list[str]] = field(default_factory=dict)
    """The first `MAX_PATHS` of each reason: there may be millions."""
    counts: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    """`PATH: REASON` of files and folders that the system does not let this process read."""

    def add(self, reason: str, path: str | Path) -> None:
        """Add a path; the reason is a phrase such as "hidden"."""
        self.counts[reason] += 1
        if len(kept := self.paths.setdefault(reason, [])) < MAX_PATHS:
            kept.append(str(path))

    def take(self) -> Skipped:
        """Give what was added so far, and begin again with nothing."""
        taken = Skipped(self.paths, self.counts, self.unreadable)
        self.paths, self.counts, self.unreadable = {}, Counter(), []
        return taken

    def merge(self, other: Skipped) -> None:
        """Add what another walk left out."""
        for reason, paths in other.paths.items():
            kept = self.paths.setdefault(reason, [])
            kept += paths[: MAX_PATHS - len(kept)]
        self.counts += other.counts
        self.unreadable += other.unreadable

    def __str__(self) -> str:
        """Number and first path for each reason, in one line; empty if nothing was skipped."""
        parts = [
            f"{self.counts[reason]:,} {reason} ({paths[0]}{', …' if len(paths) > 1 else ''})"
            for reason, paths in self.paths.items()
        ]
        return f"skipped: {'; '.join(parts)}" if parts else ""


def has_image_name(name: str) -> bool:
    """Whether a file is an image by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def find_images(folder: str | Path, skipped: Skipped | None = None, after: str | None = None) -> Iterator[str]:
    """Paths of the images in a folder, at any depth, relative to the folder, sorted by their parts.

    The memory does not grow with the number of images, also if they all lie in one folder.

    Args:
        folder: the folder.
        skipped: collects what is left out.
        after: path of an image, relative to the folder; only the images behind it are given.
    """
    skipped = skipped or Skipped()
    root = Path(folder)
    around_root = frozenset(_identity(parent) for parent in root.resolve().parents)
    stack = [_Level(root, "", around_root, [] if after is None else after.split("/"), skipped)]
    while stack:
        level = stack[-1]
        if (entry := next(level.entries, None)) is None:
            stack.pop()
        elif entry.is_folder:
            stack.append(_Level(root, entry.path, level.around, entry.after, skipped))
        else:
            yield entry.path


class ImageOrFolder(NamedTuple):
    """An image, or a folder that may have images."""

    path: str
    """Relative to the first folder."""
    is_folder: bool
    after: list[str]
    """Parts of a path in this folder; images up to it are left out."""


def following(entries: Iterable[Entry], relative: str, after: Sequence[str]) -> Iterator[ImageOrFolder]:
    """The entries of a folder that may have images behind a path.

    Args:
        entries: sorted entries of the folder.
        relative: path of the folder, empty for the first one.
        after: parts of the path below this folder; empty to give all.
    """
    for name, is_folder in entries:
        rest: list[str] = []
        if after and name <= after[0]:
            if name < after[0] or not is_folder:
                continue
            rest = list(after[1:])
        yield ImageOrFolder(f"{relative}/{name}" if relative else name, is_folder, rest)


class _Level:
    """A folder that the walk is in: its remaining entries, and the identities of the folders around them."""

    def __init__(
        self, root: Path, relative: str, around: frozenset[tuple[int, int]], after: Sequence[str], skipped: Skipped
    ) -> None:
        place = root / relative
        self.entries: Iterator[ImageOrFolder] = iter(())
        self.around = around
        try:
            identity = _identity(place)
            if identity in around:
                skipped.add("linked to a folder around it", place)
                return
            self.around = around | {identity}
            with os.scandir(place) as entries:
                found = sort_entries((entry.name, entry.is_dir()) for entry in entries if _is_wanted(entry, skipped))
        except OSError as error:
            skipped.unreadable.append(f"{place}: cannot be read: {error.strerror}")
            return
        self.entries = following(found, relative, after)


def _is_wanted(entry: os.DirEntry[str], skipped: Skipped) -> bool:
    """Whether an entry is an image or a folder; all else is added to `skipped`."""
    try:
        if entry.name.startswith("."):
            reason = "hidden"
        elif entry.is_dir():
            return True
        elif not has_image_name(entry.name):
            needs_extra = os.path.splitext(entry.name)[1].lower() in process.SUFFIXES
            reason = "in a format that needs the extra formats" if needs_extra else "without the suffix of an image"
        elif entry.is_file():
            return True
        else:
            reason = "linked to nothing" if entry.is_symlink() else "not a regular file"
    except OSError as error:  # a link to itself, for one
        skipped.unreadable.append(f"{entry.path}: cannot be read: {error.strerror}")
        return False
    skipped.add(reason, entry.path)
    return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
