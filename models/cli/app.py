"""The commands of `python -m models`."""

from __future__ import annotations

import typer

from models.cli.evaluate import evaluate_command
from models.cli.study import study_command
from models.cli.train import train_command

app = typer.Typer(help="Train, evaluate and study networks.", no_args_is_help=True)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("study")(study_command)
