"""Options and checks that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from models.artifact.manifest import MODEL_NAME
from models.console import fail
from models.imaging.preprocess import MAX_SIDE

TestData = Annotated[
    Path | None, typer.Option("--data", help="Data set for comparison and accuracy. Default: shipped photographs.")
]
Float16 = Annotated[bool, typer.Option("--float16", help="Also write a file in half precision, for GPUs.")]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Also write int8 files, calibrated on --data: three times as fast on CPUs.")
]
AllowUnfused = Annotated[
    bool, typer.Option("--allow-unfused", help="Write the version even if a residual addition is not fused.")
]
NewRepository = Annotated[Path, typer.Option("--repository", help="Folder of models; created if it does not exist.")]
ModelName = Annotated[str, typer.Option("--name", help="Name of the model, as used in URLs.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Checkpoint to write.", metavar="CHECKPOINT")]
Layout = Annotated[
    str | None, typer.Option(help="Naming of the tensors: torchvision, timm, transformers. Default: detected.")
]
Labels = Annotated[Path | None, typer.Option(help="Names of the classes: one per line, or JSON. Default: ImageNet-1k.")]
Size = Annotated[int | None, typer.Option(help="Height and width of the input in pixels.", min=1, max=MAX_SIDE)]
Resize = Annotated[
    int | None, typer.Option(help="Shorter side before the centre crop; 0 resizes without a crop.", min=0, max=MAX_SIDE)
]
Interpolation = Annotated[str | None, typer.Option(help="nearest, bilinear, bicubic or lanczos.")]
Mean = Annotated[str | None, typer.Option(help="Mean of each channel, of values between 0 and 1: 0.5,0.5,0.5.")]
Deviation = Annotated[
    str | None, typer.Option("--std", help="Standard deviation of each channel, of values between 0 and 1.")
]


def check_name(name: str) -> None:
    """End the process if a model cannot have this name."""
    if not re.fullmatch(MODEL_NAME, name):
        fail(f"{name!r} is no model name: use letters, digits, '.', '_' and '-', beginning with a letter or digit")


def check_by_position(by_position: bool, data: Path | None) -> None:
    """End the process if classes are to be matched with those of no data set."""
    if by_position and data is None:
        fail("--by-position is for the classes of --data: give --data, too")


def preprocess_overrides(
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
