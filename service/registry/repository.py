"""Reads the folder of a model repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from models.artifact import manifest
from models.artifact.manifest import MODEL_NAME

_VERSION = r"[1-9][0-9]{0,17}"


class LoadError(Exception):
    """A model cannot be served; the message says why."""


Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and modification time in ns of each file: it changes with the content of a folder."""


@dataclass(frozen=True, slots=True)
class VersionDir:
    """The folder of a version."""

    folder: Path
    fingerprint: Fingerprint


def find_versions(repository: Path) -> dict[str, dict[int, VersionDir]]:
    """The versions of a repository, by model and number.

    Raises:
        LoadError: there is no such folder, or it cannot be read.
    """
    if not repository.is_dir():
        raise LoadError(f"{repository}: there is no such folder; give the one that resnet-export wrote to")
    found: dict[str, dict[int, VersionDir]] = {}
    try:
        for model in sorted(repository.iterdir()):
            if not re.fullmatch(MODEL_NAME, model.name) or not model.is_dir():
                continue
            for folder in sorted(model.iterdir()):
                if re.fullmatch(_VERSION, folder.name) and (folder / manifest.FILE_NAME).is_file():
                    found.setdefault(model.name, {})[int(folder.name)] = VersionDir(folder, _fingerprint(folder))
    except OSError as error:
        raise LoadError(f"{repository}: cannot be read: {error}") from error
    return found


def _fingerprint(folder: Path) -> Fingerprint:
    entries = []
    for path in sorted(folder.iterdir()):
        try:
            status = path.stat()
        except FileNotFoundError:  # removed meanwhile
            continue
        entries.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(entries)
