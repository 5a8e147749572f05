"""Versions of one network in a repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.tiny import renumber


def copy_versions(source: Path, repository: Path, count: int) -> list[Path]:
    """Copy a version as versions 1 to `count` of its model."""
    name = source.parent.name
    folders = [Path(shutil.copytree(source, repository / name / str(number))) for number in range(1, count + 1)]
    for number, folder in enumerate(folders, 1):
        renumber(folder, number, name)
    return folders
