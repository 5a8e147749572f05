"""The part of `resnet-export import` for ONNX classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from export.inspect import print_version
from models.artifact import manifest


def print_imported_onnx(
    path: Path, repository: Path, name: str, labels: Path | None, preprocess: dict[str, Any]
) -> None:
    """Import an ONNX file as a version, and print what was found."""
    from export.wrapping import import_onnx

    imported = import_onnx(path, repository, name, labels, preprocess)
    print_version(imported.version, Console())
    typer.echo(f"preprocessing: {manifest.read(imported.version).preprocess.in_words()}")
    if imported.absent:
        typer.echo(f"left out, because the graph does not have it: {', '.join(imported.absent)}")
    if not imported.maps:
        typer.echo("left out: class activation maps, which need the feature map and the weights of the last layer")
