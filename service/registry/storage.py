"""A repository in object storage, copied into a folder: the service reads the folder as any other.

A version is copied when it has a manifest, which uploads write last. Every file is compared with its SHA-256 in the
manifest before the version gets its place, so a half-uploaded version is never served. Nothing is deleted while the
storage cannot be read, or is empty.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from models.artifact import manifest
from models.artifact.manifest import MODEL_NAME, VERSION, Manifest, ManifestError
from service.core.object_storage import StorageError, message, open_url
from service.registry.repository import LoadError

log = logging.getLogger(__name__)

_STAGING = ".incoming"
"""Folder of copies that are not complete. Its name is none of a model."""
_STAMP_KEYS = (
    "size",
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "sha256",
    "LastModified",
    "last_modified",
    "mtime",
    "created",
)
"""Details that the file systems of fsspec give of a file, and that change with its content."""

_Files = Mapping[str, Mapping[str, Any]]


class StorageMirror:
    """Copies a repository in object storage into a folder.

    Args:
        url: URL that fsspec opens, such as s3://bucket/models. The provider's own means give the credentials.
        folder: the copy; made if it does not exist.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._stamps: dict[PurePosixPath, str] = {}
        """Of the manifest of each version that was compared with its copy, by its path below the URL."""
        self.problems: list[str] = []
        """Why the storage, or a version in it, was not copied the last time."""

    def sync(self) -> None:
        """Copy new and changed versions, and delete removed ones. Takes as long as the copies.

        The reasons for versions that were not copied are in `problems`; versions that were copied before stay.
        """
        problems: list[str] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._storage() as (system, root, files):
                found = _find_manifests(root, files)
                for place, path in found.items():
                    try:
                        self._copy_if_changed(system, root, place, _stamp(files[path]))
                    except (LoadError, ManifestError) as error:
                        problems.append(f"{self._url}/{place}: {error}")
            if not found and self._copies():
                raise LoadError(f"{self._url}: holds no version any more; the copies stay until it has one")
            self._delete_others(found)
        except LoadError as error:
            problems.append(str(error))
        for problem in problems:
            if problem not in self.problems:
                log.error("%s", problem)
        if self.problems and not problems:
            log.info("%s: copied without problems", self._url)
        self.problems = problems

    @contextlib.contextmanager
    def _storage(self) -> Iterator[tuple[Any, str, _Files]]:
        """The file system, the path of the repository in it, and its files by path.

        Raises:
            LoadError: the storage cannot be read.
        """
        try:
            system, root = open_url(self._url)
            system.invalidate_cache()
            yield system, root.rstrip("/"), system.find(root, detail=True)
        except (LoadError, ManifestError):
            raise
        except StorageError as error:
            raise LoadError(str(error)) from error
        except Exception as error:  # the packages of the providers raise errors of any class
            raise LoadError(f"{self._url}: cannot be read: {message(error)}") from error

    def _copy_if_changed(self, system: Any, root: str, place: PurePosixPath, stamp: str) -> None:
        own = self._folder / place
        if self._stamps.get(place) == stamp and own.is_dir():
            return
        staging = self._folder / _STAGING
        staging.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=staging) as name:
            incoming = Path(name)
            _get(system, f"{root}/{place}", incoming, manifest.FILE_NAME)
            if not _same_file(incoming / manifest.FILE_NAME, own / manifest.FILE_NAME):
                _get_files(system, f"{root}/{place}", incoming, manifest.read_moved(incoming))
                _replace(incoming, own, staging)
                log.info("%s/%s: copied", self._url, place)
        self._stamps[place] = stamp

    def _delete_others(self, found: Mapping[PurePosixPath, str]) -> None:
        """Delete the copies of versions that are no longer in the storage."""
        for place in self._copies() - found.keys():
            shutil.rmtree(self._folder / place, ignore_errors=True)
            self._stamps.pop(place, None)
            log.info("%s/%s: was removed", self._url, place)

    def _copies(self) -> set[PurePosixPath]:
        """The places of the versions that were copied."""
        manifests = self._folder.rglob(manifest.FILE_NAME)
        places = {PurePosixPath(path.parent.relative_to(self._folder)) for path in manifests}
        return {place for place in places if _STAGING not in place.parts}


def _find_manifests(root: str, files: _Files) -> dict[PurePosixPath, str]:
    """The path of each manifest by its folder below the root: `MODEL/VERSION`, `VERSION` or the root itself."""
    found = {}
    for path in files:
        if path.rpartition("/")[2] != manifest.FILE_NAME:
            continue
        place = PurePosixPath(path[len(root) :].strip("/")).parent
        if _can_hold_a_version(place.parts):
            found[place] = path
    return found


def _can_hold_a_version(parts: tuple[str, ...]) -> bool:
    """Whether a folder is `MODEL/VERSION`, `VERSION`, or the root itself."""
    match parts:
        case ():
            return True
        case (version,):
            return re.fullmatch(VERSION, version) is not None
        case (model, version):
            return re.fullmatch(MODEL_NAME, model) is not None and re.fullmatch(VERSION, version) is not None
        case _:
            return False


def _get_files(system: Any, source: str, folder: Path, described: Manifest) -> None:
    """Copy the files that a manifest names.

    Raises:
        LoadError: one is missing, or has other content than the manifest says.
    """
    hashes = {artifact.file: artifact.sha256 for artifact in described.files}
    hashes[manifest.GOLDEN_FILE] = described.golden_sha256
    if described.classifier_sha256 is not None:
        hashes[manifest.CLASSIFIER_FILE] = described.classifier_sha256
    for name, expected in hashes.items():
        _get(system, source, folder, name)
        if manifest.sha256(folder / name) != expected:
            raise LoadError(f"{name} is not the file that the manifest describes: upload it, then the manifest again")


def _get(system: Any, source: str, folder: Path, name: str) -> None:
    try:
        system.get_file(f"{source}/{name}", str(folder / name))
    except FileNotFoundError as error:
        raise LoadError(f"{name} is missing: upload it") from error


def _replace(incoming: Path, own: Path, staging: Path) -> None:
    """Give a complete version its place. A reader sees the old one, none, or the new one."""
    incoming.chmod(0o755)
    own.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=staging) as old:
        if own.exists():
            own.rename(Path(old) / "version")
        incoming.rename(own)
        incoming.mkdir()  # `TemporaryDirectory` removes it


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def _stamp(details: Mapping[str, Any]) -> str:
    return repr([(key, str(details[key])) for key in _STAMP_KEYS if details.get(key) is not None])
