"""`resnet-train --list`."""

from __future__ import annotations

import torch
import typer
from rich.table import Table

from models.architectures import VARIANTS, build
from models.architectures.complexity import count_multiply_adds, count_parameters
from models.console import console


def list_architectures(wanted: bool) -> None:
    """Print the table of architectures and end the command, if `wanted`."""
    if not wanted:
        return
    table = Table("architecture", "shortcut", "parameters", "multiply-adds", "input")
    for column in table.columns[2:]:
        column.justify = "right"
    for name, variant in VARIANTS.items():
        with torch.device("meta"):
            model = build(name, 1000 if variant.reduces_early else 10)
            # Normalisation does not count, and without it this takes a third of the time.
            bare = build(name, 1000 if variant.reduces_early else 10, norm="none")
        operations = count_multiply_adds(bare, 3, (variant.input_size, variant.input_size))
        table.add_row(
            name,
            variant.shortcut,
            f"{count_parameters(model) / 1e6:.2f} M",
            f"{operations / 1e9:.2f} G" if operations >= 1e9 else f"{operations / 1e6:.1f} M",
            f"{variant.input_size} x {variant.input_size}",
        )
    type(console)().print(table)
    raise typer.Exit
