"""Atomic writes of versions."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from export.errors import BuildError

_PREFIX = ".partial-"
_ABANDONED_S = 3600
"""Age in seconds from which a file of this prefix is of a killed process: a file is written within seconds."""


@contextmanager
def staged_version(model: Path) -> Iterator[tuple[Path, int]]:
    """A hidden folder for the next version of a model, and the version's number.

    At the end the folder is renamed to the number; on an error it is removed. Folders of killed processes are removed
    by the next one. Processes that write at the same time get different numbers: the hidden folder reserves its own.

    Raises:
        BuildError: the folder cannot be written.
    """
    try:
        staging, number, lock = _reserve(model)
    except OSError as error:
        raise BuildError(f"{model}: cannot be written: {error.strerror}") from error
    try:
        yield staging, number
        staging.chmod(0o755)
        for path in staging.iterdir():
            _sync(path)
        os.rename(staging, model / str(number))
        _sync(model)
    except OSError as error:
        raise BuildError(f"{model}: the version could not be written: {error.strerror or error}") from error
    finally:
        with _locked(model):
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)
            if not any(model.iterdir()):
                model.rmdir()


def _reserve(model: Path) -> tuple[Path, int, int]:
    """A new hidden folder, the number that it reserves, and a lock on it, which ends with the process."""
    with _locked(model):
        _remove_abandoned(model)
        # A folder of this module has a hyphen after the number; a file of `atomic_write` has none.
        found = [path.name for path in model.iterdir()]
        names = [re.sub(rf"^{re.escape(_PREFIX)}(\d+)-.*", r"\1", name) for name in found]
        number = 1 + max((int(name) for name in names if name.isdecimal()), default=0)
        staging = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{number}-", dir=model))
        lock = os.open(staging, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return staging, number, lock


@contextmanager
def _locked(model: Path) -> Iterator[None]:
    """Lock the folder of a model, which is made if it does not exist, against other processes."""
    while True:
        model.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(model, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another process may have removed the empty folder before the lock was taken.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), model.stat()):
                break
        os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(model: Path) -> None:
    """Remove folders of killed processes, and files that `atomic_write` began long ago."""
    for path in list(model.glob(f"{_PREFIX}*")):
        with suppress(FileNotFoundError):  # another process has renamed or removed it
            if path.is_dir():
                _remove_unlocked(path)
            elif time.time() - path.lstat().st_mtime > _ABANDONED_S:
                path.unlink()


def _remove_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
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
