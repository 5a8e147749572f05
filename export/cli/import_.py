"""`resnet-export import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from export.cli.import_onnx import print_imported_onnx
from export.cli.options import check_name, preprocess_overrides
from models.artifact.parity import ParityError
from models.console import fail


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

    preprocess = preprocess_overrides(size, resize, interpolation, mean, std)
    try:
        if onnx:
            if repository is None or name is None or arch or output or layout:
                fail("--onnx takes --repository and --name, and none of --arch, --output and --layout")
            check_name(name)
            print_imported_onnx(path, repository, name, labels, preprocess)
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
