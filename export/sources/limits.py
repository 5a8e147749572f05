"""Bounds of downloads, and their progress bar."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from export.errors import FetchError
from models.console import console
from models.progress import ProgressBar, progress_bar

MAX_UNKNOWN_LENGTH = 2**30
"""Most bytes of a file whose server does not tell its length. The largest ResNets of timm's table have 350 MB."""
_KEPT_FREE = 64 * 2**20
"""Bytes of a disk that a download leaves free."""
_UNIT = 10**6


def check_free_space(length: int | None, folder: Path, name: str) -> None:
    """Refuse a file that does not fit on the disk.

    Raises:
        FetchError: the file does not fit.
    """
    free = shutil.disk_usage(folder).free - _KEPT_FREE
    if length is not None and length > free:
        raise FetchError(f"{name}: has {length / 1e6:,.0f} MB, and {folder} has room for {max(free, 0) / 1e6:,.0f} MB")


class Meter:
    """Counts the bytes of a download, ends it if there are too many, and shows its progress.

    Args:
        name: the file, for people.
        length: its bytes; None if the server does not tell them.
        limit: most bytes that it may have; None for the limit of files of weights.
        begin: bytes that are there already.
    """

    def __init__(self, name: str, length: int | None, limit: int | None = None, begin: int = 0) -> None:
        if length is not None and limit is not None and length > limit:
            raise FetchError(f"{name}: has {length:,} bytes, more than the {limit:,} of such a file")
        self.received = begin
        self._name = name
        self._most = length if length is not None else (limit or MAX_UNKNOWN_LENGTH)
        self._bar: ProgressBar | None = None
        self._stack = ExitStack()
        # A bar for a small file would only flicker.
        self._shown = 0 if length is None else length // _UNIT

    def __enter__(self) -> Self:
        if self._shown:
            self._bar = self._stack.enter_context(progress_bar(self._name, self._shown, "MB"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, count: int) -> None:
        """Count bytes before they are written.

        Raises:
            FetchError: there are more than the server announced, or than any such file has.
        """
        self.received += count
        if self.received > self._most:
            raise FetchError(f"{self._name}: the server sends more than {self._most:,} bytes, so it is ended")
        if self._bar is not None:
            self._bar.update(self.received // _UNIT)

    def restart(self) -> None:
        """Count from zero again."""
        self.received = 0

    def note(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.note(line)
        else:
            console.print(line, highlight=False, soft_wrap=True, markup=False)
