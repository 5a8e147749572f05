"""`resnet-export inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.inspect import print_version
from export.kernels.report import print_engines
from models.artifact.card import model_card
from models.artifact.manifest import ManifestError, find_versions
from models.console import fail
from models.files import atomic_write
from models.runtime.engine_cache import ENVIRONMENT, default_folder


def inspect_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
    card: Annotated[
        bool, typer.Option("--card", help="Write the model card of the newest version in Markdown.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --card: file to write. Default: standard output.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(envvar=ENVIRONMENT, help="Folder of engines to show. Default: ~/.cache/resnet-serve."),
    ] = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="Show the kernels of each layer of CUDA engines.")] = False,
) -> None:
    """Show the content of a repository, a model or a version, and its CUDA engines."""
    if output is not None and not card:
        fail("--output is for --card")
    if kernels and card:
        fail("--card shows no kernels: leave out --card or --kernels")
    try:
        versions = find_versions(path)
        if card:
            _write_card(versions, output)
            return
        for version in versions:
            print_version(version, Console())
            print_engines(version, cache or default_folder(), Console(), kernels)
    except (ManifestError, OSError) as error:
        fail(error)


def _write_card(versions: list[Path], output: Path | None) -> None:
    models = {version.parent.name for version in versions}
    if len(models) > 1:
        fail(f"a card is of one model: give the folder of one of {', '.join(sorted(models))}")
    text = model_card(versions[-1])
    if output is None:
        typer.echo(text, nl=False)
    else:
        atomic_write(output, text.encode())
