"""The part of `resnet-export import` for weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from export.cli.options import check_name
from export.inspect import print_version
from models.console import fail, printable

if TYPE_CHECKING:
    from export.importing import Imported, ImportOverrides
    from export.sources import FetchedWeights


@dataclass(frozen=True)
class Target:
    """Destination of imported weights: a checkpoint, a version in a repository, or both."""

    checkpoint: Path | None
    repository: Path | None
    name: str | None
    data: Path | None
    float16: bool
    int8: bool
    by_position: bool


def print_imported_weights(source: str, arch: str | None, overrides: ImportOverrides, target: Target) -> None:
    """Fetch weights, import them, build a version if one is wanted, and print what was found."""
    from export import sources
    from export.importing import import_weights

    if target.name is not None:
        check_name(target.name)
    fetched = sources.fetch(source)
    imported = import_weights(fetched.path, arch or fetched.architecture, overrides)
    origin = {**imported.checkpoint.training["imported"], **fetched.provenance}
    with _checkpoint_file(target.checkpoint) as path:
        replace(imported.checkpoint, training={"imported": origin}).save(path)
        typer.echo("\n".join(map(printable, _found(source, fetched, imported))))
        if target.checkpoint is not None:
            typer.echo(f"checkpoint     {target.checkpoint}")
        if target.repository is None:
            return
        from export.build import build  # takes seconds, which a checkpoint alone does not need

        name = target.name or _model_name(fetched.name)
        version = build(
            path,
            target.repository,
            name,
            target.data,
            float16=target.float16,
            int8=target.int8,
            by_position=target.by_position,
        )
    print_version(version, Console())


@contextmanager
def _checkpoint_file(wanted: Path | None) -> Iterator[Path]:
    """The wanted file, or one that lasts until the version is built."""
    if wanted is not None:
        yield wanted
        return
    with TemporaryDirectory(prefix="resnet-export-") as folder:
        yield Path(folder) / "checkpoint.safetensors"


def _found(source: str, fetched: FetchedWeights, imported: Imported) -> Iterator[str]:
    found = imported.checkpoint
    yield f"{source}: {found.architecture.name} with {len(found.labels)} classes, in {imported.layout}'s layout"
    if imported.place:
        yield f"weights        {imported.place} in {fetched.path.name}"
    if imported.ignored:
        more = ", …" if len(imported.ignored) > 3 else ""
        yield f"left out       {len(imported.ignored)} tensors beside them: {', '.join(imported.ignored[:3])}{more}"
    yield f"labels         {imported.labels_from}: {found.labels[0]}, …"
    yield f"preprocessing  {imported.preprocess_from}:"
    yield f"               {found.preprocess.in_words()}"
    yield f"licence        {fetched.licence or 'no licence is stated'}"


def _model_name(suggested: str) -> str:
    """The name of a model, made from the name of its source."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", suggested).strip("._-")[:128]
    if not name:
        fail(f"give --name: no name can be made from {suggested!r}")
    return name
