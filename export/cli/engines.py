"""`resnet-export engines`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer

from export.errors import EngineError
from models.artifact.manifest import ManifestError, Precision, find_versions
from models.console import fail
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import ENVIRONMENT, EngineCacheError, default_folder, require_writable
from models.runtime.engine_plan import Flavour, Hardware
from models.runtime.tensorrt_runtime import NoTensorRT

Runtime = Literal["tensorrt", "tensorrt_rtx", "cuda"]
_TENSORRT_BATCHES = "1,2-8,9-32"
_CUDA_BATCHES = "1,8,64"


def engines_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
    cache: Annotated[
        Path | None, typer.Option(envvar=ENVIRONMENT, help="Folder of engines. Default: ~/.cache/resnet-serve.")
    ] = None,
    runtime: Annotated[
        Runtime | None,
        typer.Option(
            help="TensorRT to build with, or cuda for the kernels of this project. Default: TensorRT, if installed."
        ),
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Build this precision only. Default: all.")] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="Build for a GPU of another machine, such as 8.9. With cuda, or with TensorRT for RTX."),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            help="TensorRT: ranges of batch sizes, one optimisation profile each; default: 1,2-8,9-32. "
            "cuda: batch sizes; default: 1,8,64."
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Build for later minor versions of TensorRT, too."),
    ] = False,
    hardware: Annotated[Hardware, typer.Option(help="GPUs that can run the engines. More GPUs cost speed.")] = "device",
    again: Annotated[bool, typer.Option("--again", help="Build existing engines again.")] = False,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="cuda, with a GPU to build for in this machine: measure the configurations of kernels that have not "
            "been measured, which takes minutes, and store the fastest. Otherwise a table and its rule choose them. "
            "Default: measure.",
        ),
    ] = None,
) -> None:
    """Build engines for GPUs: TensorRT's, or those of this project. Needs no torch."""
    folder = cache or default_folder()
    failed = False
    try:
        versions = find_versions(path)
        chosen = runtime or _installed()
        _check_options(chosen == "cuda", version_compatible or hardware != "device", measure)
        if chosen == "cuda":
            options = batches or _CUDA_BATCHES, again, measure is not False
            outcomes = _cuda_engines(versions, folder, compute_capability, precision, options)
        else:
            flavour = cast(Flavour | None, runtime)
            build_options = (batches or _TENSORRT_BATCHES, version_compatible, hardware)
            outcomes = _tensorrt_engines(versions, folder, flavour, compute_capability, build_options, precision, again)
        for result, text in outcomes:
            failed = failed or result == "failed"
            typer.echo(f"{result}: {text}")
    except (EngineCacheError, EngineError, ManifestError, NoDevice, NoTensorRT, ValueError) as error:
        fail(error)
    if failed:
        raise typer.Exit(2)


def _check_options(cuda: bool, for_tensorrt: bool, measure: bool | None) -> None:
    if cuda and for_tensorrt:
        fail("--version-compatible and --hardware are for TensorRT, not for cuda")
    if not cuda and measure is not None:
        fail("--measure and --no-measure are for cuda, not for TensorRT: give --runtime cuda")


def _installed() -> Runtime | None:
    """The kernels of this project where their compiler is installed, and no TensorRT is."""
    if any(importlib.util.find_spec(name) for name in get_args(Flavour)):
        return None
    return "cuda" if importlib.util.find_spec("triton") else None


def _tensorrt_engines(
    versions: list[Path],
    folder: Path,
    flavour: Flavour | None,
    compute_capability: str | None,
    options: tuple[str, bool, Hardware],
    precision: Precision | None,
    again: bool,
) -> Iterator[tuple[str, str]]:
    from export import engines
    from export.formats.tensorrt import BuildOptions

    batches, version_compatible, hardware = options
    build_options = BuildOptions(engines.parse_batches(batches), version_compatible, hardware)
    platforms = engines.platforms(flavour, compute_capability)
    require_writable(folder)
    for outcome in engines.build_engines(versions, folder, platforms, build_options, precision, again):
        yield outcome.result, outcome.text


def _cuda_engines(
    versions: list[Path],
    folder: Path,
    compute_capability: str | None,
    precision: Precision | None,
    options: tuple[str, bool, bool],
) -> Iterator[tuple[str, str]]:
    from export.kernels import engines

    batches, again, measure = options
    sizes = engines.parse_batches(batches)
    wanted = engines.capabilities(compute_capability)
    require_writable(folder)
    for outcome in engines.build_engines(versions, folder, wanted, sizes, precision, again, measure):
        yield outcome.result, outcome.text
