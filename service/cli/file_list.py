"""The files that `resnet-classify` is to classify: from the command line, folders, and a list on standard input."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from models.imaging.image_files import Skipped, find_images

STANDARD_INPUT = Path("-")
"""The argument that stands for a list of paths on standard input."""
_MARK = b"\xef\xbb\xbf"
_PIECE = 1 << 16
"""Bytes of a list that are read at a time; a path is shorter, so the first piece tells what separates paths."""


class FileList:
    """Files by path, the images in folders at any depth, and the same of a list on standard input.

    There may be millions, so the list is not kept in memory: each iteration walks through the folders again, and a list
    on standard input is copied to a temporary file. A file that is given by its path may have any name. A path of the
    list that does not exist is kept: a list may be long and old, and its other files are classified.

    Args:
        paths: files and folders, and `STANDARD_INPUT`.
        skipped: collects what is left out in folders.

    Raises:
        FileNotFoundError: a path does not exist, or there are no files.
    """

    def __init__(self, paths: Sequence[Path], skipped: Skipped) -> None:
        self._paths = paths
        self._listed: IO[bytes] | None = None
        for path in paths:
            if path != STANDARD_INPUT and not path.exists():
                raise FileNotFoundError(f"{path}: there is no such file or folder")
        if STANDARD_INPUT in paths:
            self._listed = tempfile.TemporaryFile()  # noqa: SIM115
            shutil.copyfileobj(sys.stdin.buffer, self._listed)
        self._count = sum(1 for _ in self._walk(skipped))
        if not self._count:
            raise FileNotFoundError("there are no image files" + (f"; {skipped}" if str(skipped) else ""))

    def close(self) -> None:
        """Remove the temporary file."""
        if self._listed is not None:
            self._listed.close()

    def __len__(self) -> int:
        """Number of files when they were counted."""
        return self._count

    def __iter__(self) -> Iterator[Path]:
        return self._walk(Skipped())

    def _walk(self, skipped: Skipped) -> Iterator[Path]:
        for path in self._paths:
            if path == STANDARD_INPUT and self._listed is not None:
                self._listed.seek(0)
                for listed in parse_list(self._listed):
                    yield from _expand(listed, skipped)
            else:
                yield from _expand(path, skipped)


def parse_list(file: IO[bytes]) -> Iterator[Path]:
    """The paths of a list, one per line, or each with a zero byte behind it as `find -print0` writes them."""
    piece = file.read(_PIECE).removeprefix(_MARK)
    separator, rest = b"\0" if b"\0" in piece else b"\n", b""
    while piece:
        *lines, rest = (rest + piece).split(separator)
        yield from _paths(lines)
        piece = file.read(_PIECE)
    yield from _paths([rest])


def _paths(lines: Sequence[bytes]) -> Iterator[Path]:
    for line in lines:
        if path := line.removesuffix(b"\r"):
            yield Path(os.fsdecode(path))


def _expand(path: Path, skipped: Skipped) -> Iterator[Path]:
    if path.is_dir():
        yield from (path / image for image in find_images(path, skipped))
    else:
        yield path
