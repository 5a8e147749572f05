"""A version appears whole or not at all."""

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
    """A hidden folder to write the next version of a model in, and that version's number.

    It is renamed to the number at the end, and removed on any error. What a process that was killed left behind is
    removed by the next one; two that write at the same time get two numbers.

    Raises:
        BuildError: the file system refuses.
    """
    try:
        model.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(model)
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=model))
    except OSError as error:
        raise BuildError(f"{model}: cannot be written: {error.strerror}") from error
    # Held until this process ends, however it ends.
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
            pass  # somebody is writing it
        finally:
            os.close(lock)


def _sync(path: Path) -> None:
    """Have the disk keep it before the version becomes visible."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
