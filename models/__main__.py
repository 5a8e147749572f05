"""`resnet-train` and `resnet-evaluate`; also `python -m models train` and `python -m models evaluate`."""

from __future__ import annotations

import typer

from models.cli.evaluate import evaluate_command
from models.cli.train import train_command

app = typer.Typer(help="Train and evaluate networks.", no_args_is_help=True)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)


def run_train() -> None:
    """`resnet-train`."""
    typer.run(train_command)


def run_evaluate() -> None:
    """`resnet-evaluate`."""
    typer.run(evaluate_command)


if __name__ == "__main__":
    app()
