"""`resnet-export engines`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.artifact.manifest import ManifestError, Precision, find_versions
from models.console import fail
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import ENVIRONMENT, EngineCacheError, default_folder, require_writable
from models.runtime.engine_plan import Flavour, Hardware
from models.runtime.tensorrt_runtime import NoTensorRT


def engines_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
    cache: Annotated[
        Path | None, typer.Option(envvar=ENVIRONMENT, help="Folder of engines. Default: ~/.cache/resnet-serve.")
    ] = None,
    runtime: Annotated[
        Flavour | None, typer.Option(help="TensorRT to build with. Default: tensorrt, if it is installed.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Build this precision only. Default: all.")] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="Build for a GPU of another machine, such as 8.9. Only with TensorRT for RTX."),
    ] = None,
    batches: Annotated[str, typer.Option(help="Ranges of batch sizes, one optimisation profile each.")] = "1,2-8,9-32",
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Build for later minor versions of TensorRT, too."),
    ] = False,
    hardware: Annotated[Hardware, typer.Option(help="GPUs that can run the engines. More GPUs cost speed.")] = "device",
    again: Annotated[bool, typer.Option("--again", help="Build existing engines again.")] = False,
) -> None:
    """Build the TensorRT engines for this machine. Needs no torch."""
    from export import engines
    from export.formats.tensorrt import BuildOptions

    failed = False
    try:
        versions = find_versions(path)
        options = BuildOptions(engines.parse_batches(batches), version_compatible, hardware)
        platforms = engines.platforms(runtime, compute_capability)
        folder = cache or default_folder()
        require_writable(folder)
        for outcome in engines.build_engines(versions, folder, platforms, options, precision, again):
            failed = failed or outcome.result == "failed"
            typer.echo(f"{outcome.result}: {outcome.text}")
    except (EngineCacheError, ManifestError, NoDevice, NoTensorRT, ValueError) as error:
        fail(error)
    if failed:
        raise typer.Exit(2)
