"""`resnet-export checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.console import fail


def checkpoint_command(
    path: Annotated[Path, typer.Argument(help="Checkpoint of resnet-train or of import.", metavar="CHECKPOINT")],
    layout: Annotated[str, typer.Option(help="Library to write for: torchvision, timm, transformers.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File for torchvision (.safetensors, .pth), a new folder for the others."),
    ],
) -> None:
    """Write a checkpoint for another library.

    torchvision gets a state dict; timm and transformers get a folder as the Hugging Face hub has it, with labels and
    preprocessing.
    """
    from export.errors import BuildError
    from export.writing import write
    from models.training import checkpoint
    from models.training.checkpoint import CheckpointError

    try:
        loaded = checkpoint.load(path)
        loaded.model()  # refuses weights of another architecture
        files = write(loaded, layout, output)
    except (BuildError, CheckpointError, OSError) as error:
        fail(error)
    typer.echo("\n".join(map(str, files)))
    if layout == "torchvision":
        typer.echo(f"left out, because a state dict does not have them: labels, and {loaded.preprocess.in_words()}")
