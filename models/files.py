"""Atomic file writes, text of any editor, and files that Git LFS has not fetched."""

from __future__ import annotations

import codecs
import contextlib
import os
import tempfile
from pathlib import Path


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file atomically: readers get the old content or all of the new one, which is on the disk by then.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, 0o644)  # other users may read the file, too
            os.fsync(descriptor)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def decode_text(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte-order mark. The mark, which editors on Windows write, is removed.

    Raises:
        UnicodeDecodeError: the bytes are no such text.
    """
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf16 else "utf-8-sig")


_POINTER_START = b"version https://git-lfs.github.com/spec/"


def git_lfs_problem(path: Path) -> str | None:
    """A message if a file has the text that Git keeps in place of a large file; None for all other files."""
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER_START)) == _POINTER_START
    except OSError:
        return None
    return f"{path}: is a pointer of Git LFS, not the file itself: run git lfs pull" if pointer else None
