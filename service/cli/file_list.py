"""The files that `resnet-classify` is to classify: from the command line, folders, and a list on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.imaging.image_files import Skipped, find_images

STANDARD_INPUT = Path("-")
"""The argument that stands for a list of paths on standard input."""
_MARK = b"\xef\xbb\xbf"


def find_files(paths: Sequence[Path], skipped: Skipped) -> list[Path]:
    """List files by path, the images in folders at any depth, and the same of a list on standard input.

    A file that is given by its path may have any name. A path of the list that does not exist is kept: a list may be
    long and old, and its other files are classified.

    Args:
        paths: files and folders, and `STANDARD_INPUT`.
        skipped: collects what is left out in folders.

    Raises:
        FileNotFoundError: a path does not exist, or there are no files.
    """
    files: list[Path] = []
    for path in paths:
        if path == STANDARD_INPUT:
            for listed in parse_list(sys.stdin.buffer.read()):
                files += _expand(listed, skipped)
        elif path.exists():
            files += _expand(path, skipped)
        else:
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not files:
        raise FileNotFoundError("there are no image files" + (f"; {skipped}" if str(skipped) else ""))
    return files


def parse_list(content: bytes) -> Iterator[Path]:
    """The paths of a list, one per line, or each with a zero byte behind it as `find -print0` writes them."""
    separator = b"\0" if b"\0" in content else b"\n"
    for line in content.removeprefix(_MARK).split(separator):
        if path := line.removesuffix(b"\r"):
            yield Path(os.fsdecode(path))


def _expand(path: Path, skipped: Skipped) -> Iterator[Path]:
    if path.is_dir():
        yield from (path / image for image in find_images(path, skipped))
    else:
        yield path
