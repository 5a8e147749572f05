"""The part of `resnet-export import` for ONNX classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from export.inspect import print_version
from models.artifact import manifest
from models.console import fail

if TYPE_CHECKING:
    from export.wrapping import OnnxOptions


PixelsOption = Annotated[
    str | None,
    typer.Option(
        "--pixels",
        help="With --onnx: values that the network takes. torch: ImageNet's mean and standard deviation (default); tf: "
        "-1 to 1; caffe: 0 to 255 less the mean, blue first, as Keras' ResNet50 takes; unit: 0 to 1; raw: 0 to 255.",
    ),
]
BlueFirst = Annotated[
    bool,
    typer.Option("--bgr", help="With --onnx: the network takes blue, green, red, as OpenCV reads images."),
]
LogitsOption = Annotated[
    str | None,
    typer.Option("--logits", help="With --onnx: output with the logits or probabilities, if the file has several."),
]


def onnx_options(onnx: bool, pixels: str | None, bgr: bool, logits: str | None) -> dict[str, Any]:
    """The fields of `OnnxOptions` that these options set."""
    from export.wrapping.pixels import PIXELS

    if pixels is not None and pixels not in PIXELS:
        fail(f"--pixels {pixels}: there are {', '.join(PIXELS)}")
    if not onnx and any((pixels, bgr, logits)):
        fail("--pixels, --bgr and --logits are for --onnx")
    return {"pixels": pixels, "bgr": bgr, "logits": logits}


def print_imported_onnx(path: Path, repository: Path, name: str, options: OnnxOptions) -> None:
    """Import an ONNX file as a version, and print what was found."""
    from export.wrapping import import_onnx

    imported = import_onnx(path, repository, name, options)
    print_version(imported.version, Console())
    typer.echo(f"preprocessing: {manifest.read(imported.version).preprocess.in_words()}")
    if imported.absent:
        typer.echo(f"left out, because the graph does not have it: {', '.join(imported.absent)}")
    if not imported.maps:
        typer.echo("left out: class activation maps, which need the feature map and the weights of the last layer")
