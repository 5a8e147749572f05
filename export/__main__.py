"""`resnet-export`; also `python -m export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from export.inspect import find_versions, print_version
from models.driver import NoDevice
from models.engine_cache import ENVIRONMENT, Flavour, Hardware, default_folder
from models.machine import NoTensorRT
from models.manifest import MODEL_NAME, ManifestError, Precision
from models.parity import ParityError
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
    float16: Annotated[bool, typer.Option("--float16", help="Also write a file in half precision, for GPUs.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write int8 files: three times as fast on CPUs, calibrated on --data.")
    ] = False,
    allow_unfused: Annotated[
        bool, typer.Option("--allow-unfused", help="Write the version even where an addition is not fused.")
    ] = False,
    triton: Annotated[
        bool, typer.Option("--triton", help="Also write config.pbtxt: the model's folder then loads in Triton.")
    ] = False,
) -> None:
    """Export a checkpoint as the next version of a model, checked against it."""
    import re

    if not re.match(MODEL_NAME, name):
        _fail(f"{name!r} cannot be a model name: letters, digits, '.', '_' and '-', the first a letter or digit")
    # torch takes seconds to import, which `inspect` and `--help` need not wait for.
    from export.build import build
    from export.errors import BuildError
    from export.triton import write_configuration
    from models.checkpoint import CheckpointError
    from models.data import DataError

    try:
        version = build(path, repository, name, data, float16=float16, int8=int8, allow_unfused=allow_unfused)
        if triton:
            write_configuration(version)
    except (BuildError, CheckpointError, DataError, ParityError, OSError) as error:
        _fail(error)
    print_version(version, Console())


@app.command("engines")
def engines_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
    cache: Annotated[
        Path | None, typer.Option(envvar=ENVIRONMENT, help="Folder of engines. Default: ~/.cache/resnet-serve.")
    ] = None,
    runtime: Annotated[
        Flavour | None, typer.Option(help="The one to build with. Default: tensorrt where it is installed.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Build in this one only. Default: all there are.")] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="Of a GPU that is not here, such as 8.9. Only with TensorRT for RTX.")
    ] = None,
    batches: Annotated[str, typer.Option(help="Ranges of batch sizes, an optimisation profile each.")] = "1,2-8,9-32",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Have later minor versions of TensorRT take the engines.")
    ] = False,
    hardware: Annotated[Hardware, typer.Option(help="Which GPUs are to take the engines. More cost speed.")] = "device",
    again: Annotated[bool, typer.Option("--again", help="Build what is there already, too.")] = False,
) -> None:
    """Build the TensorRT engines that this machine can use. Needs no torch."""
    from export import engines
    from export.formats.tensorrt import Options

    failed = False
    try:
        versions = find_versions(path)
        options = Options(engines.parse_batches(batches), version_compatible, hardware)
        machines = engines.machines(runtime, compute_capability)
        folder = cache or default_folder()
        for outcome in engines.build_engines(versions, folder, machines, options, precision, again):
            failed = failed or outcome.result == "failed"
            typer.echo(f"{outcome.result}: {outcome.text}")
    except (ManifestError, NoDevice, NoTensorRT, ValueError) as error:
        _fail(error)
    if failed:
        raise typer.Exit(2)


@app.command("verify")
def verify_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
) -> None:
    """Check every file against its hash, and every artifact on its golden images. Needs no torch."""
    from export.verify import verify_version

    failed = False
    try:
        versions = find_versions(path)
    except ManifestError as error:
        _fail(error)
    for version in versions:
        name = f"{version.parent.name} version {version.name}"
        try:
            for file, parity in verify_version(version).items():
                typer.echo(
                    f"{name}: {file}: logit error {parity.logit_error:.1e}, "
                    f"agreement {parity.top1_agreement:.1%} on {parity.images} golden images"
                )
        except (ManifestError, ParityError) as error:
            failed = True
            console.print(f"error: {name}: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
    if failed:
        raise typer.Exit(2)


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
