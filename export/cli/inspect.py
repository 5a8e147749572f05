"""`resnet-export inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.inspect import print_version
from models.artifact.manifest import ManifestError, find_versions
from models.console import fail


def inspect_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
) -> None:
    """Show the content of a repository, a model or a version."""
    try:
        for version in find_versions(path):
            print_version(version, Console())
    except ManifestError as error:
        fail(error)
