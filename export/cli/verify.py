"""`resnet-export verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.artifact.manifest import ManifestError, find_versions
from models.artifact.parity import ParityError
from models.console import fail, print_error


def verify_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
) -> None:
    """Check every file against its hash, and every artifact on the golden images. Needs no torch."""
    from export.verify import verify_version

    failed = False
    try:
        versions = find_versions(path)
    except ManifestError as error:
        fail(error)
    for version in versions:
        name = f"{version.parent.name} version {version.name}"
        try:
            for file, parity in verify_version(version).items():
                typer.echo(
                    f"{name}: {file}: logit error {parity.logit_error:.1e}, "
                    f"agreement {parity.top1_agreement:.1%} on {parity.images} golden images"
                )
        except (ManifestError, ParityError, OSError) as error:
            failed = True
            print_error(f"{name}: {error}")
    if failed:
        raise typer.Exit(2)
