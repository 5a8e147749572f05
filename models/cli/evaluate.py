"""`resnet-evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from models.console import ByPosition, console, fail
from models.data import DataError, load, match_classes
from models.data.files import check_images
from models.training import checkpoint
from models.training.checkpoint import CheckpointError
from models.training.evaluate import EvaluationReport, evaluate
from models.training.plots import plot_confusion


def evaluate_command(
    path: Annotated[Path, typer.Argument(help="Checkpoint.", metavar="CHECKPOINT")],
    data: Annotated[Path, typer.Option(help="Folder of the data set; its test split is used.")],
    confusion: Annotated[Path | None, typer.Option(help="PNG file for the confusion matrix.")] = None,
    by_position: ByPosition = False,
) -> None:
    """Print top-1, top-5 and the accuracy of each class on the test split."""
    try:
        loaded = checkpoint.load(path)
        test = load(data, "test", loaded.preprocess)
        check_images(test)
        test = match_classes(test, loaded.labels, by_position=by_position)
        report = evaluate(loaded.model(), test, loaded.preprocess)
    except (DataError, CheckpointError) as error:
        fail(error)
    _print_report(report, loaded.labels)
    if confusion is not None:
        try:
            plot_confusion(report.confusion, loaded.labels, confusion)
        except (OSError, ValueError) as error:
            fail(error)


def _print_report(report: EvaluationReport, labels: tuple[str, ...]) -> None:
    table = Table("class", "images", "top-1")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, count, share in zip(labels, report.confusion.sum(1), report.per_class, strict=True):
        table.add_row(label, f"{count}", f"{share:.2%}" if count else "-")
    table.add_section()
    table.add_row("all", f"{report.images}", f"{report.top1:.2%}")
    output = type(console)()
    output.print(table)
    output.print(f"top-1 {report.top1:.4f}  top-5 {report.top5:.4f}  images {report.images}", highlight=False)
