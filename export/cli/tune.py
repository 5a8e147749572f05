"""`resnet-export tune`, which is deprecated."""

from __future__ import annotations

import subprocess
import sys

import typer

from models.console import console


def tune_command(context: typer.Context) -> None:
    """Deprecated: `resnet-serve tune` measures what computes a model fastest on this machine."""
    console.print("resnet-export tune is deprecated: use resnet-serve tune", style="yellow", highlight=False)
    # It measures the executors of the service, which `export` must not import.
    child = subprocess.run([sys.executable, "-P", "-m", "service.cli.tune", *context.args])
    raise typer.Exit(child.returncode)
