"""Atomic writes of versions."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import BuildError

_PREFIX = ".partial-"


@contextmanager
def staged_version(model: Path) -> Iterator[tuple[Path, int]]:
    """A hidden folder for the next version of a model, and the version's number.

    At the end the folder is renamed to the number; on an error it is removed. Folders of killed processes are removed
    by the next one. Two processes that write at the same time get two numbers.

    Raises:
        BuildError: the folder cannot be written.
    """
    try:
        model.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(model)
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=model))
    except OSError as error:
        raise BuildError(f"{model}: cannot be written: {error.strerror}") from error
    # The lock ends with this process, even if the process is killed.
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        number = 1 + max((int(path.name) for path in model.iterdir() if path.name.isdecimal()), default=0)
        yield staging, number
        staging.chmod(0o755)
        for path in staging.iterdir():
            _sync(path)
        os.rename(staging, model / str(number))
        _sync(model)
    except OSError as error:
        raise BuildError(f"{model}: the version could not be written: {error.strerror or error}") from error
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)
        if not any(model.iterdir()):
            model.rmdir()


def _remove_abandoned(model: Path) -> None:
    for path in model.glob(f"{_PREFIX}*"):
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # another process writes it
        finally:
            os.close(lock)


def _sync(path: Path) -> None:
    """Write a file or folder to the disk, before the version becomes visible."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
