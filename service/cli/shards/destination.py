"""Where shards go: a folder, or a folder in object storage. A file is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from models.files import atomic_write
from service.core.object_storage import StorageError, check_url, is_url, message, open_url

_PARTIAL = ".partial-"
"""Begins the names of files that are being written."""


class Destination(Protocol):
    """A folder of results. All methods raise OSError if it cannot be read or written."""

    place: str
    """Path or URL, for messages."""
    scratch: Path
    """Folder on this machine where files are written before they are put."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None without such a file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, or replace it."""

    def put(self, path: Path, name: str) -> None:
        """Give a file of `scratch` its place, and remove it there."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""

    def close(self) -> None:
        """Remove unfinished files."""


def open_destination(place: str) -> Destination:
    """The folder at a path or URL, which is made if it does not exist.

    Raises:
        OSError: it cannot be written, or another process writes to it.
        ValueError: the URL is not valid.
    """
    scheme, _, path = place.partition("://")
    if scheme in ("file", "local") and path:
        place = path
    return UrlFolder(check_url(place, "results")) if is_url(place) else LocalFolder(Path(place))


class LocalFolder:
    """A folder on this machine, which one process at a time writes to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.place = str(folder)
        self.scratch = folder
        self._lock = os.open(folder, os.O_RDONLY)  # a lock ends with its process, also after SIGKILL
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StorageError(f"{folder}: another process writes to it: wait until it has ended") from None
        self._remove_partial()

    def read(self, name: str) -> bytes | None:
        try:
            return (self.scratch / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        atomic_write(self.scratch / name, content)

    def put(self, path: Path, name: str) -> None:
        with path.open("rb") as file:
            os.fchmod(file.fileno(), 0o644)  # other users may read the file, too
            os.fsync(file.fileno())
        os.replace(path, self.scratch / name)

    def remove(self, name: str) -> None:
        (self.scratch / name).unlink()

    def sizes(self) -> dict[str, int]:
        with os.scandir(self.scratch) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}

    def close(self) -> None:
        self._remove_partial()
        os.close(self._lock)

    def _remove_partial(self) -> None:
        """Remove the files that a killed process was writing."""
        for path in self.scratch.glob(f"{_PARTIAL}*"):
            path.unlink()


class UrlFolder:
    """A folder in object storage. The storage has no locks: two processes must not write to the same folder."""

    def __init__(self, url: str) -> None:
        self.place = url
        self._system, self._root = open_url(url)
        self._scratch = tempfile.TemporaryDirectory(prefix="resnet-classify-")
        self.scratch = Path(self._scratch.name)

    def read(self, name: str) -> bytes | None:
        with self._errors("read"):
            try:
                return bytes(self._system.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        with self._errors("written"):
            self._system.pipe_file(f"{self._root}/{name}", content)

    def put(self, path: Path, name: str) -> None:
        with self._errors("written"):
            self._system.put_file(str(path), f"{self._root}/{name}")
        path.unlink()

    def remove(self, name: str) -> None:
        with self._errors("written"):
            self._system.rm_file(f"{self._root}/{name}")

    def sizes(self) -> dict[str, int]:
        with self._errors("read"):
            try:
                listed = self._system.ls(self._root, detail=True)
            except FileNotFoundError:
                return {}
            return {entry["name"].rpartition("/")[2]: entry["size"] for entry in listed if entry["type"] == "file"}

    def close(self) -> None:
        self._scratch.cleanup()

    @contextlib.contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the packages of the providers raise errors of any class
            raise StorageError(f"{self.place}: cannot be {done}: {message(error)}") from error


def scratch_file(destination: Destination) -> Path:
    """A new empty file in the scratch folder."""
    descriptor, path = tempfile.mkstemp(prefix=_PARTIAL, dir=destination.scratch)
    os.close(descriptor)
    return Path(path)
