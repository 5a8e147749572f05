"""`resnet-export`; also `python -m export`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from export.inspect import print_version
from models.artifact import manifest
from models.artifact.manifest import MODEL_NAME, ManifestError, Precision, find_versions
from models.artifact.parity import ParityError
from models.console import ByPosition, console, fail, print_error
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import ENVIRONMENT, EngineCacheError, default_folder, require_writable
from models.runtime.engine_plan import Flavour, Hardware
from models.runtime.tensorrt_runtime import NoTensorRT

app = typer.Typer(help="Export checkpoints to model repositories.", no_args_is_help=True)


def _check_name(name: str) -> None:
    if not re.match(MODEL_NAME, name):
        fail(f"{name!r} is no model name: use letters, digits, '.', '_' and '-', beginning with a letter or digit")


@app.command("build")
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
    _check_name(name)
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


@app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="Weights: safetensors, or a state dict (.pth).", metavar="FILE")],
    arch: Annotated[str | None, typer.Option(help="Architecture of the weights, such as resnet50.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Checkpoint to write.", metavar="CHECKPOINT")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Naming of the tensors: torchvision, timm, transformers. Default: detected.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the classes: one per line, or JSON. Default: ImageNet-1k.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the input in pixels.", min=1)] = None,
    resize: Annotated[
        int | None,
        typer.Option(help="Shorter side before the centre crop; 0 resizes without a crop.", min=0),
    ] = None,
    interpolation: Annotated[str | None, typer.Option(help="nearest, bilinear, bicubic or lanczos.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of each channel, of values between 0 and 1: 0.5,0.5,0.5.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of each channel, of values between 0 and 1.")
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="FILE is an ONNX classifier: write it as a version of a model.")
    ] = False,
    repository: Annotated[Path | None, typer.Option(help="With --onnx: folder of models.")] = None,
    name: Annotated[str | None, typer.Option(help="With --onnx: name of the model.")] = None,
) -> None:
    """Import weights from torchvision, timm or transformers, or any ONNX classifier.

    The preprocessing is detected from the files; options override it.
    """
    from export.errors import BuildError

    preprocess = _preprocess(size, resize, interpolation, mean, std)
    try:
        if onnx:
            if repository is None or name is None or arch or output or layout:
                fail("--onnx takes --repository and --name, and none of --arch, --output and --layout")
            _check_name(name)
            _import_onnx(path, repository, name, labels, preprocess)
        else:
            if arch is None or output is None or repository or name:
                fail("weights need --arch and --output; --repository and --name are for --onnx")
            _import_weights(path, arch, output, layout, labels, preprocess)
    except (BuildError, ParityError, OSError) as error:
        fail(error)


def _import_weights(
    path: Path, arch: str, output: Path, layout: str | None, labels: Path | None, preprocess: dict[str, Any]
) -> None:
    from export.importing import ImportOverrides, import_weights

    imported = import_weights(path, arch, ImportOverrides(layout, labels, preprocess))
    imported.checkpoint.save(output)
    found = imported.checkpoint
    lines = [
        f"{output}: {arch} with {len(found.labels)} classes, in {imported.layout}'s layout",
        f"labels         {imported.labels_from}: {found.labels[0]}, …",
        f"preprocessing  {imported.preprocess_from}:",
        f"               {found.preprocess.in_words()}",
    ]
    if imported.place:
        lines.insert(1, f"weights        {imported.place} in {path.name}")
    typer.echo("\n".join(lines))


def _import_onnx(path: Path, repository: Path, name: str, labels: Path | None, preprocess: dict[str, Any]) -> None:
    from export.wrapping import import_onnx

    imported = import_onnx(path, repository, name, labels, preprocess)
    print_version(imported.version, Console())
    typer.echo(f"preprocessing: {manifest.read(imported.version).preprocess.in_words()}")
    if imported.absent:
        typer.echo(f"left out, because the graph does not have it: {', '.join(imported.absent)}")
    if not imported.maps:
        typer.echo("left out: class activation maps, which need the feature map and the weights of the last layer")


def _preprocess(
    size: int | None, resize: int | None, interpolation: str | None, mean: str | None, std: str | None
) -> dict[str, Any]:
    """The fields of `Preprocess` that options set."""
    given: dict[str, Any] = {
        "size": None if size is None else (size, size),
        "interpolation": interpolation,
        "mean": None if mean is None else _numbers("--mean", mean),
        "std": None if std is None else _numbers("--std", std),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return chosen if resize is None else {**chosen, "resize": resize or None}


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers such as 0.485,0.456,0.406, not {text!r}") from None


@app.command("engines")
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


@app.command("tune", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def tune_command(context: typer.Context) -> None:
    """Deprecated: `resnet-serve tune` measures what computes a model fastest on this machine."""
    console.print("resnet-export tune is deprecated: use resnet-serve tune", style="yellow", highlight=False)
    # It measures the executors of the service, which `export` must not import.
    child = subprocess.run([sys.executable, "-P", "-m", "service.cli.tune", *context.args])
    raise typer.Exit(child.returncode)


@app.command("verify")
def verify_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
) -> None:
    """Check every file against its hash, and every artifact on the golden images. Needs no torch."""
    from export.verify import verify_version

    failed = False
    try:
        versions = find_versions(path)
    except ManifestError as error:
        fail(error)
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
            print_error(f"{name}: {error}")
    if failed:
        raise typer.Exit(2)


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(help="A repository, a model or a version in it.", metavar="PATH")],
) -> None:
    """Show the content of a repository, a model or a version."""
    try:
        for version in find_versions(path):
            print_version(version, Console())
    except ManifestError as error:
        fail(error)


if __name__ == "__main__":
    app()
