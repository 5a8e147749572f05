"""Reads the folder of a model repository."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from models.artifact import manifest
from models.artifact.manifest import MODEL_NAME, VERSION, ManifestError

_FOLDER = "."
"""Name of the folder itself in a fingerprint."""


class LoadError(Exception):
    """A model cannot be served; the message says why."""


Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and modification time in ns of each file: it changes with the content of a folder. A file or a
folder that cannot be read has -1 and the number of the error."""


@dataclass(frozen=True, slots=True)
class VersionDir:
    """The folder of a version."""

    folder: Path
    fingerprint: Fingerprint


class Contents(NamedTuple):
    """The content of a repository."""

    versions: dict[str, dict[int, VersionDir]]
    """The versions, by model and number. Folders that cannot be read are listed; to load them gives the reason."""
    unreadable: dict[str, str]
    """Models whose folder cannot be read, with the reason."""


def find_versions(repository: Path, only_model: str | None = None) -> dict[str, dict[int, VersionDir]]:
    """As `read_repository`, without the models that cannot be read."""
    return read_repository(repository, only_model).versions


def read_repository(repository: Path, only_model: str | None = None) -> Contents:
    """Find the versions of a repository.

    Args:
        repository: a folder of models; with `only_model` the folder of one model, or of one version.
        only_model: name to serve that model under.

    Raises:
        LoadError: there is no such folder, it cannot be read, or this process lacks the resources to read it.
    """
    contents = Contents({}, {})
    try:
        # `is_dir` raises an error inside a folder that this user may not enter, for some versions of Python.
        if not repository.is_dir():
            raise LoadError(f"{repository}: there is no such folder; give the one that resnet-export wrote to")
        names = _names(repository, MODEL_NAME)
        if only_model is None:
            folders, find = {name: repository / name for name in names}, _find_in_model
        else:
            folders, find = {only_model: repository}, _find_in_only_model
        for name, folder in folders.items():
            try:
                versions = find(folder)
            except OSError as error:
                _raise_if_exhausted(error)
                contents.unreadable[name] = f"{folder}: cannot be read: {error.strerror}"
            except ManifestError as error:
                contents.unreadable[name] = str(error)
            else:
                if versions:
                    contents.versions[name] = versions
    except OSError as error:
        raise LoadError(f"{repository}: cannot be read: {error}") from error
    return contents


def _find_in_only_model(folder: Path) -> dict[int, VersionDir]:
    """The versions in a folder, or the version that the folder is."""
    if not (folder / manifest.FILE_NAME).exists():
        return _find_in_model(folder)
    return {manifest.read_moved(folder).version: VersionDir(folder, _fingerprint(folder))}


def _find_in_model(folder: Path) -> dict[int, VersionDir]:
    found = {}
    for name in _names(folder, VERSION):
        fingerprint = _fingerprint(folder / name)
        if any(entry[0] in (manifest.FILE_NAME, _FOLDER) for entry in fingerprint):
            found[int(name)] = VersionDir(folder / name, fingerprint)
    return found


def _names(folder: Path, pattern: str) -> list[str]:
    """Names of the entries of a folder that match a pattern, sorted; none if it is not a folder."""
    try:
        return sorted(name for name in os.listdir(folder) if re.fullmatch(pattern, name))
    except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or a file
        return []


def _fingerprint(folder: Path) -> Fingerprint:
    entries = []
    try:
        with os.scandir(folder) as files:
            for file in files:
                try:
                    status = file.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                except OSError as error:  # such as a link to itself
                    _raise_if_exhausted(error)
                    entries.append((file.name, -1, error.errno or 0))
                else:
                    entries.append((file.name, status.st_size, status.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        _raise_if_exhausted(error)
        return ((_FOLDER, -1, error.errno or 0),)
    return tuple(sorted(entries))


def _raise_if_exhausted(error: OSError) -> None:
    """Raise an error again if it says nothing about the file: this process has no descriptors or memory left."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error
