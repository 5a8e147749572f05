"""One revision of a model in the cache of huggingface_hub, which fetches what is missing."""

from __future__ import annotations

import os

# Xet moves chunks of files in its own protocol. Plain HTTP can be continued where it broke, and is what the tests see.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub gets requests for files, and no others

import contextlib
import fcntl
import functools
import hashlib
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from huggingface_hub import (
    close_session,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    set_client_factory,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging

from export.errors import FetchError
from export.sources.fetched import CONFIGURATIONS
from export.sources.hub_client import make_client
from export.sources.hub_errors import explain, is_unreachable
from export.sources.limits import Meter, check_free_space
from models.files import atomic_write

_CHUNK = 64 * 1024
"""Bytes that are lost at most if a connection breaks; the library's own chunks have 10 MB."""


class Snapshot:
    """The files of one commit of a model.

    Args:
        model: owner and name.
        revision: branch, tag or commit.
    """

    def __init__(self, model: str, revision: str) -> None:
        self._model, self._revision = model, revision
        self._commit: str | None = None
        self._offline: Exception | None = None
        """The reason why the cache is used alone."""
        self._folder = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"

    def __enter__(self) -> Self:
        hub_logging.set_verbosity(logging.ERROR)
        constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
        set_client_factory(make_client)
        try:
            self._commit = self._find_commit()
        except FetchError:
            close_session()
            raise
        except Exception as error:
            if not is_unreachable(error):
                close_session()
                raise self._in_words(error) from error
            self._offline = error
        self._remove_abandoned()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close_session()
        if error is None and self._commit is not None:
            # The library does this only for files that it gets by the name of the revision, and these would be of
            # several commits if a branch moves.
            (place := self._folder / "refs" / self._revision).parent.mkdir(parents=True, exist_ok=True)
            atomic_write(place, self._commit.encode())

    def _find_commit(self) -> str | None:
        """The commit of the revision, by any of its files: this one may be absent."""
        url = hf_hub_url(self._model, CONFIGURATIONS[0], revision=self._revision)
        try:
            return get_hf_file_metadata(url).commit_hash
        except HfHubHTTPError as error:
            if not _is_absent(error):
                raise
            return error.response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)

    def get(self, file: str, limit: int | None = None) -> Path | None:
        """A file of the commit, fetched unless it is in the cache; None if the commit has no such file.

        Args:
            file: name of the file.
            limit: most bytes that it may have.

        Raises:
            FetchError: the file cannot be fetched, or has another hash than the hub announces.
        """
        try:
            cached = try_to_load_from_cache(self._model, file, revision=self._commit or self._revision)
            if isinstance(cached, str) and _is_intact(Path(cached)):
                return Path(cached)
            if self._offline is not None or (cached is not None and not isinstance(cached, str)):
                return None  # without the hub, or known to be absent
            return self._download(file, limit)
        except FetchError:
            raise
        except Exception as error:
            if _is_absent(error):
                return None
            raise self._in_words(error) from error

    def _download(self, file: str, limit: int | None) -> Path:
        meter = functools.partial(_Meter, file, self._folder.parent, limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the disk, which the meter checks
            revision = self._commit or self._revision
            path = Path(hf_hub_download(self._model, file, revision=revision, tqdm_class=cast(Any, meter)))
        if not _is_intact(path):
            raise FetchError(
                f"hf-hub:{self._model}: {file} has another hash than the hub announces, so it is removed: try again"
            )
        return path

    def absent(self, files: Sequence[str]) -> str:
        """The reason why none of some files could be had."""
        missing = f"has none of {', '.join(files)}" if len(files) > 1 else "is not there"
        if self._offline is None:
            return f"{missing} at commit {self._commit}"
        return f"{explain(self._offline, self._model, self._revision)}, and the cache {missing}"

    def _in_words(self, error: Exception) -> FetchError:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        shown = cause if isinstance(cause, Exception) else error
        return FetchError(f"hf-hub:{self._model}: {explain(shown, self._model, self._revision)}")

    def _remove_abandoned(self) -> None:
        """Remove the beginnings of files that killed processes left."""
        for partial in self._folder.glob("blobs/*.incomplete"):
            etag = re.sub(r"\.[0-9a-f]{8}\.incomplete$", "", partial.name)
            lock = self._folder.parent / ".locks" / self._folder.name / f"{etag}.lock"
            with contextlib.suppress(OSError):  # another process downloads it
                if lock.exists():
                    with lock.open("ab") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        partial.unlink()
                else:
                    partial.unlink()


class _Meter(Meter):
    """In the form of the progress bar that huggingface_hub makes for each download."""

    def __init__(
        self, name: str, folder: Path, limit: int | None, *, total: int | None = None, initial: int = 0, **_: object
    ) -> None:
        check_free_space(total, folder, name)
        super().__init__(name, total, limit, initial)

    def update(self, count: float | None = 1) -> None:
        """Count bytes; a negative number if a download begins again."""
        self.add(int(count or 0))


def _is_absent(error: Exception) -> bool:
    """Whether the hub says that a commit has no such file."""
    other = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)
    return isinstance(error, HfHubHTTPError) and error.response.status_code == 404 and not other


def _is_intact(path: Path) -> bool:
    """Whether a file of the cache has the hash that is its name there; if not, it is removed.

    Large files are named by their SHA-256, others by their hash in Git.
    """
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        with blob.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == blob.name
    elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        intact = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob.name
    else:
        return True
    if not intact:
        path.unlink()
        blob.unlink(missing_ok=True)
    return intact
