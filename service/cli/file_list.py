"""The files that `resnet-classify` is to classify: from the command line, folders, and a list on standard input."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from models.imaging.image_files import Skipped, find_images
from service.cli import url_files
from service.core.object_storage import StorageError, check_url, is_url

STANDARD_INPUT = "-"
"""The argument that stands for a list of paths on standard input."""
_MARK = b"\xef\xbb\xbf"
_PIECE = 1 << 16
"""Bytes of a list that are read at a time; a path is shorter, so the first piece tells what separates paths."""


class ImageFile(NamedTuple):
    """A file, and its position in the order of all files."""

    name: str
    """Path or URL, as it was given or below a folder that was given."""
    argument: int = 0
    """Index of the argument that it comes from."""
    entry: int = 0
    """Index in the list, if the argument is `STANDARD_INPUT`."""


class FileList:
    """Files by path or URL, the images in folders at any depth, and the same of a list on standard input.

    There may be millions, so the list is not kept in memory: each walk goes through the folders again, in the same
    order, and a list on standard input is copied to a temporary file. A file that is given by its path may have any
    name. A path of the list that does not exist is kept: a list may be long and old.

    It can be pickled, with the list on standard input. On another machine, relative paths start at the same folder.

    Args:
        paths: files and folders, and `STANDARD_INPUT`.

    Raises:
        FileNotFoundError: a path does not exist, or there are no files.
        StorageError: object storage cannot be read.
        ValueError: a URL is not valid.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.arguments = [check_url(path, "images") if is_url(path) else str(Path(path)) for path in paths]
        self.list_sha256: str | None = None
        """Of the list on standard input; None without one."""
        self.folder = ""
        """Folder that relative paths start at; empty for the working directory."""
        self._listed: IO[bytes] | None = None
        for path in self.arguments:
            if path != STANDARD_INPUT and not (url_files.exists(path) if is_url(path) else os.path.exists(path)):
                raise FileNotFoundError(f"{path}: there is no such file or folder")
        if STANDARD_INPUT in self.arguments:
            self._copy_list(sys.stdin.buffer)
        skipped = Skipped()
        if next(self.walk(skipped), None) is None:
            raise FileNotFoundError("there are no image files" + (f"; {skipped}" if str(skipped) else ""))

    def __getstate__(self) -> dict[str, object]:
        listed = None if self._listed is None else Path(self._listed.name).read_bytes()
        return {**self.__dict__, "folder": self.folder or os.getcwd(), "_listed": listed}

    def __setstate__(self, state: dict[str, object]) -> None:
        listed = state["_listed"]
        self.__dict__.update(state, _listed=None)
        if isinstance(listed, bytes):
            self._copy_list(io.BytesIO(listed))

    def _copy_list(self, source: IO[bytes]) -> None:
        self._listed = tempfile.NamedTemporaryFile()  # noqa: SIM115
        digest = hashlib.sha256()
        while piece := source.read(_PIECE):
            digest.update(piece)
            self._listed.write(piece)
        self._listed.flush()
        self.list_sha256 = digest.hexdigest()

    def close(self) -> None:
        """Remove the temporary file."""
        if self._listed is not None:
            self._listed.close()

    def walk(self, skipped: Skipped, after: ImageFile | None = None) -> Iterator[ImageFile]:
        """The files in their order. Several walks may take place at the same time.

        Args:
            skipped: collects what is left out in folders.
            after: file of an earlier walk; only the files behind it are given.
        """
        begin = (0, 0) if after is None else (after.argument, after.entry)
        for argument, entry, path in self._entries():
            if (argument, entry) < begin:
                continue
            last = after.name if after is not None and (argument, entry) == begin else None
            for name in _expand(path, self.folder, skipped, last):
                yield ImageFile(name, argument, entry)

    def roots(self) -> Iterator[str]:
        """The folders that were given, and those of the files that were given.

        Raises:
            StorageError: one of them is a URL.
        """
        for _, _, path in self._entries():
            if is_url(path):
                raise StorageError(f"{path}: heat maps are only drawn for files on this machine: leave --cam out")
            yield path if os.path.isdir(path) else os.path.dirname(path)

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        for argument, path in enumerate(self.arguments):
            if path == STANDARD_INPUT and self._listed is not None:
                with open(self._listed.name, "rb") as file:
                    for entry, listed in enumerate(parse_list(file)):
                        yield argument, entry, listed if is_url(listed) else str(Path(listed))
            else:
                yield argument, 0, path


def parse_list(file: IO[bytes]) -> Iterator[str]:
    """The paths of a list, one per line, or each with a zero byte behind it as `find -print0` writes them."""
    piece = file.read(_PIECE).removeprefix(_MARK)
    separator, rest = b"\0" if b"\0" in piece else b"\n", b""
    while piece:
        *lines, rest = (rest + piece).split(separator)
        yield from _paths(lines)
        piece = file.read(_PIECE)
    yield from _paths([rest])


def _paths(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        if path := line.removesuffix(b"\r"):
            yield os.fsdecode(path)


def _expand(path: str, folder: str, skipped: Skipped, after: str | None) -> Iterator[str]:
    """The images of a folder, or the file itself; only those behind `after`, which is one of them."""
    place = os.path.join(folder, path)
    if is_url(path):
        yield from url_files.find_image_urls(path, skipped, after)
    elif os.path.isdir(place):
        prefix = "" if path == "." else f"{path.rstrip('/')}/"
        relative = None if after is None else after.removeprefix(prefix)
        yield from (prefix + image for image in find_images(place, skipped, relative))
    elif after is None:
        yield path
