"""Downloads one file with a known hash, which a broken connection continues."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from export.errors import FetchError
from export.sources.http import BROKEN, Answer, open_url
from export.sources.limits import Meter, check_free_space
from models.artifact.manifest import sha256

_CHUNK = 256 * 1024
_ATTEMPTS = 5
"""Attempts without a single new byte, after which a download ends."""
_FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each later pause is twice as long."""


def download(url: str, target: Path, digits: str) -> None:
    """Write the content of a URL to a file, unless the file is complete already.

    The file appears when it is complete and its hash is right. Until then a hidden file holds its beginning, which is
    removed on an error, and which the next download begins again if this process was killed.

    Args:
        url: address of the file.
        target: file to write; its folder is created if it does not exist.
        digits: first hexadecimal digits of the SHA-256, or all of them.

    Raises:
        FetchError: the file cannot be fetched, is too large, or has another hash.
        OSError: the file cannot be written.
    """
    if target.is_file() and sha256(target).startswith(digits):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _partial_file(target) as (path, file):
        if target.is_file() and sha256(target).startswith(digits):
            return  # another process fetched it meanwhile
        try:
            _receive(url, file, target)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FetchError(f"{target.parent}: the disk is full: free some space") from error
        file.flush()
        found = sha256(path)
        if not found.startswith(digits):
            raise FetchError(
                f"{url}: its SHA-256 is {found}, but {digits} was expected: it is another file, or a damaged one"
            )
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)
        os.replace(path, target)


@contextmanager
def _partial_file(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """An empty hidden file beside the target, locked against other processes, which is gone afterwards."""
    path = target.with_name(f".partial-{target.name}")
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Another process may have removed or renamed the file before the lock was taken.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    file.truncate(0)
                    try:
                        yield path, file
                    finally:
                        path.unlink(missing_ok=True)
                    return


def _receive(url: str, file: BinaryIO, target: Path) -> None:
    """Write the content of a URL to an empty file, in several requests if the connection breaks."""
    with open_url(url) as first:
        check_free_space(first.length, target.parent, url)
        with Meter(target.name, first.length) as meter:
            problem = _copy(first, first, file, meter)
            failures = 0
            while problem is not None:
                if failures == _ATTEMPTS:
                    raise FetchError(f"{url}: the connection broke again and again: {problem}: try again later")
                meter.note(f"{target.name}: the connection broke after {meter.received:,} bytes, and is opened again")
                time.sleep(_FIRST_PAUSE * 2**failures)
                before = meter.received
                problem = _continue(url, first, file, meter)
                failures = 0 if meter.received > before else failures + 1


def _continue(url: str, first: Answer, file: BinaryIO, meter: Meter) -> Exception | None:
    """Write the rest of a file; returns the reason if the connection breaks again."""
    with contextlib.ExitStack() as stack:
        try:
            rest = stack.enter_context(open_url(url, meter.received, first.etag))
        except BROKEN as error:
            return error
        if rest.begin != meter.received:  # the server knows no ranges, or has another file now
            meter.restart()
            file.truncate(0)
        if rest.total != first.length:
            raise FetchError(f"{url}: changed during the download: try again")
        return _copy(rest, first, file, meter)


def _copy(answer: Answer, first: Answer, file: BinaryIO, meter: Meter) -> Exception | None:
    """Write the content of an answer to the end of a file; returns the reason if the connection breaks."""
    while True:
        try:
            chunk = answer.read(_CHUNK)
        except BROKEN as error:
            return error
        if not chunk:
            break
        meter.add(len(chunk))
        file.write(chunk)
    if first.length is not None and meter.received < first.length:
        return ConnectionError(f"{meter.received:,} of {first.length:,} bytes came")
    return None
