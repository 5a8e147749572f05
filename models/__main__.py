"""`resnet-train`, `resnet-evaluate` and `resnet-study`; also `python -m models train` and so on.

The imports take seconds, so they come after the line that can start the process again.
"""

from __future__ import annotations

import typer

from models import malloc


def run() -> None:
    """`python -m models`."""
    malloc.use_huge_pages()
    from models.cli.app import app

    app()


def run_train() -> None:
    """`resnet-train`."""
    malloc.use_huge_pages()
    from models.cli.train import train_command

    typer.run(train_command)


def run_evaluate() -> None:
    """`resnet-evaluate`."""
    malloc.use_huge_pages()
    from models.cli.evaluate import evaluate_command

    typer.run(evaluate_command)


def run_study() -> None:
    """`resnet-study`."""
    malloc.use_huge_pages()
    from models.cli.study import study_command

    typer.run(study_command)


if __name__ == "__main__":
    run()
