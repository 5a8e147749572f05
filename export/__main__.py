"""`resnet-export`; also `python -m export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from export.inspect import find_versions, print_version
from models.manifest import MODEL_NAME, ManifestError
from models.progress import console

app = typer.Typer(help="From checkpoints to model repositories.", no_args_is_help=True)


def _fail(error: Exception | str) -> NoReturn:
    console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(2)


@app.command("build")
def build_command(
    path: Annotated[Path, typer.Argument(help="Checkpoint that resnet-train wrote.", metavar="CHECKPOINT")],
    repository: Annotated[Path, typer.Option(help="Folder of models; made if it is not there.")],
    name: Annotated[str, typer.Option(help="Name of the model, as it will stand in URLs.")],
    data: Annotated[
        Path | None, typer.Option(help="Data set to compare and measure accuracy on; else shipped photographs.")
    ] = None,
) -> None:
    """Export a checkpoint as the next version of a model, checked against it."""
    import re

    if not re.match(MODEL_NAME, name):
        _fail(f"{name!r} cannot be a model name: letters, digits, '.', '_' and '-', the first a letter or digit")
    # torch takes seconds to import, which `inspect` and `--help` need not wait for.
    from export.build import BuildError, build
    from export.verify import VerificationError
    from models.checkpoint import CheckpointError
    from models.data import DataError

    try:
        version = build(path, repository, name, data)
    except (BuildError, CheckpointError, DataError, VerificationError) as error:
        _fail(error)
    print_version(version, Console())


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
) -> None:
    """Show what a repository, a model or a version holds."""
    try:
        for version in find_versions(path):
            print_version(version, Console())
    except ManifestError as error:
        _fail(error)


if __name__ == "__main__":
    app()
