"""`resnet-export ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.cli.options import AllowUnfused, Float16, Int8, ModelName, NewRepository, check_by_position, check_name
from export.inspect import print_version
from models.artifact.parity import ParityError
from models.console import ByPosition, fail


def ensemble_command(
    paths: Annotated[
        list[Path], typer.Argument(help="Checkpoints with the same classes and input.", metavar="CHECKPOINT...")
    ],
    repository: NewRepository,
    name: ModelName,
    data: Annotated[
        Path | None,
        typer.Option(help="Data set for temperatures, comparison and accuracy. Default: shipped photographs."),
    ] = None,
    float16: Float16 = False,
    int8: Int8 = False,
    allow_unfused: AllowUnfused = False,
    by_position: ByPosition = False,
) -> None:
    """Export several checkpoints as one version, which averages their probabilities.

    It costs as much as all of them, and is served like any other. It has no embedding and no class activation maps.
    """
    check_name(name)
    check_by_position(by_position, data)
    # Importing torch takes seconds, which `--help` does not need.
    from export.ensemble import build_ensemble
    from export.errors import BuildError
    from models.data import DataError
    from models.training.checkpoint import CheckpointError

    try:
        version = build_ensemble(
            paths,
            repository,
            name,
            data,
            float16=float16,
            int8=int8,
            allow_unfused=allow_unfused,
            by_position=by_position,
        )
    except (BuildError, CheckpointError, DataError, ParityError, OSError) as error:
        fail(error)
    print_version(version, Console())
