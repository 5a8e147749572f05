"""`resnet-export build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.cli.options import check_name
from export.inspect import print_version
from models.artifact.parity import ParityError
from models.console import ByPosition, fail


def build_command(
    path: Annotated[Path, typer.Argument(help="Checkpoint of resnet-train.", metavar="CHECKPOINT")],
    repository: Annotated[Path, typer.Option(help="Folder of models; created if it does not exist.")],
    name: Annotated[str, typer.Option(help="Name of the model, as used in URLs.")],
    data: Annotated[
        Path | None, typer.Option(help="Data set for comparison and accuracy. Default: shipped photographs.")
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Also write a file in half precision, for GPUs.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write int8 files, calibrated on --data: three times as fast on CPUs.")
    ] = False,
    allow_unfused: Annotated[
        bool, typer.Option("--allow-unfused", help="Write the version even if a residual addition is not fused.")
    ] = False,
    by_position: ByPosition = False,
    triton: Annotated[
        bool, typer.Option("--triton", help="Also write config.pbtxt, with which Triton loads the model's folder.")
    ] = False,
) -> None:
    """Export a checkpoint as the next version of a model, and compare the two."""
    check_name(name)
    # Importing torch takes seconds, which `inspect` and `--help` do not need.
    from export.build import build
    from export.errors import BuildError
    from export.triton import write_configuration
    from models.data import DataError
    from models.training.checkpoint import CheckpointError

    try:
        version = build(
            path,
            repository,
            name,
            data,
            float16=float16,
            int8=int8,
            allow_unfused=allow_unfused,
            by_position=by_position,
        )
        if triton:
            write_configuration(version)
    except (BuildError, CheckpointError, DataError, ParityError, OSError) as error:
        fail(error)
    print_version(version, Console())
