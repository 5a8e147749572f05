"""`resnet-export build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.cli.options import (
    AllowUnfused,
    Float16,
    Int8,
    ModelName,
    NewRepository,
    TestData,
    check_by_position,
    check_name,
)
from export.inspect import print_version
from models.artifact.parity import ParityError
from models.console import ByPosition, fail


def build_command(
    path: Annotated[Path, typer.Argument(help="Checkpoint of resnet-train.", metavar="CHECKPOINT")],
    repository: NewRepository,
    name: ModelName,
    data: TestData = None,
    float16: Float16 = False,
    int8: Int8 = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also export the pooled features of each stage, layer1 to layer3 or 4.")
    ] = False,
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Also write model.lesion.onnx, in which blocks can be deleted.")
    ] = False,
    allow_unfused: AllowUnfused = False,
    by_position: ByPosition = False,
    triton: Annotated[
        bool, typer.Option("--triton", help="Also write config.pbtxt, with which Triton loads the model's folder.")
    ] = False,
) -> None:
    """Export a checkpoint as the next version of a model, and compare the two."""
    check_name(name)
    check_by_position(by_position, data)
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
            layers=layers,
            lesions=lesions,
            allow_unfused=allow_unfused,
            by_position=by_position,
        )
        if triton:
            write_configuration(version)
    except (BuildError, CheckpointError, DataError, ParityError, OSError) as error:
        fail(error)
    print_version(version, Console())
