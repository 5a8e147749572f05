"""`resnet-evaluate`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from models.console import ByPosition, console, fail, printable
from models.data import DataError, Dataset, load, match_classes
from models.data.files import check_images
from models.evaluation.metrics import Evaluation
from models.evaluation.plots import plot_confusion
from models.evaluation.predict import predict_probabilities
from models.evaluation.report import write_report
from models.evaluation.views import Views, ViewsError
from models.training import checkpoint
from models.training.checkpoint import Checkpoint, CheckpointError


def evaluate_command(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Checkpoint; of several, the probabilities are averaged.", metavar="CHECKPOINT…"),
    ],
    data: Annotated[Path, typer.Option(help="Folder of the data set; its test split is used.")],
    top_k: Annotated[int, typer.Option(help="Also print how often the class is among the first K.", min=1)] = 5,
    crops: Annotated[
        int,
        typer.Option(help="1: the centre crop; 10: corners, centre and their mirrors, averaged, ten times the time."),
    ] = 1,
    scales: Annotated[
        str | None,
        typer.Option(help="Shorter sides such as 224,256,384,480,640: whole images and their mirrors, averaged."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print every figure as JSON, for programs.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html with pictures and tables.")] = None,
    confusion: Annotated[Path | None, typer.Option(help="PNG file for the confusion matrix.")] = None,
    by_position: ByPosition = False,
) -> None:
    """Print top-1, top-k and the accuracy of each class on the test split."""
    try:
        _check_writable(report, confusion)
        views = _views(crops, scales)
        loaded = [checkpoint.load(path) for path in paths]
        evaluation, test, alone = _evaluate(paths, loaded, data, views, top_k, by_position)
        document = _document(evaluation, test, paths, loaded, alone, views)
        if json_:
            typer.echo(json.dumps(document))
        else:
            _print(evaluation)
        if report is not None:
            write_report(report, evaluation, test, document)
        if confusion is not None:
            plot_confusion(evaluation.confusion, evaluation.classes, confusion)
    except (DataError, CheckpointError, ViewsError, OSError, ValueError) as error:
        fail(error)


def _check_writable(report: Path | None, confusion: Path | None) -> None:
    """Fail before the evaluation, which can take hours, if its results cannot be written.

    Raises:
        OSError: a folder does not exist or is not writable.
    """
    for option, folder in (("--report", report), ("--confusion", confusion and confusion.parent)):
        try:
            if folder is not None:
                if folder is report:
                    report.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise OSError(f"{option}: {folder} cannot be written: {error.strerror}") from error
    if confusion is not None and confusion.is_dir():
        raise OSError(f"--confusion: {confusion} is a folder, not the name of a PNG file")


def _views(crops: int, scales: str | None) -> Views:
    if crops not in (1, 10):
        raise ViewsError(f"--crops takes 1 or 10, not {crops}")
    try:
        sides = tuple(int(part) for part in scales.split(",")) if scales else ()
    except ValueError:
        raise ViewsError(f"--scales takes numbers such as 224,256,384, not {scales!r}") from None
    return Views(10 if crops == 10 else 1, sides)


def _evaluate(
    paths: Sequence[Path], loaded: Sequence[Checkpoint], data: Path, views: Views, top_k: int, by_position: bool
) -> tuple[Evaluation, Dataset, list[float]]:
    """The figures of the average, the images of the first checkpoint, and top-1 of each checkpoint alone."""
    labels = loaded[0].labels
    for path, trained in zip(paths, loaded, strict=True):
        views.check(trained.preprocess)
        if trained.labels != labels:
            raise CheckpointError(f"{path}: has other classes than {paths[0]}, or in another order: evaluate it alone")
    tests = [match_classes(load(data, "test", each.preprocess), labels, by_position=by_position) for each in loaded]
    check_images(tests[0])
    total = np.zeros((len(tests[0].labels), len(labels)), np.float32)
    alone = []
    for trained, test in zip(loaded, tests, strict=True):
        probabilities = predict_probabilities(trained.model(), test, trained.preprocess, views)
        alone.append(float((probabilities.argmax(1) == test.labels).mean()))
        probabilities /= len(loaded)
        total += probabilities
    return Evaluation(labels, tests[0].labels, total, top_k), tests[0], alone


def _document(
    evaluation: Evaluation, test: Dataset, paths: Sequence[Path], loaded: Sequence[Checkpoint], alone: Sequence[float],
    views: Views,
) -> dict[str, Any]:  # fmt: skip
    checkpoints = [
        {"file": str(path), "architecture": trained.architecture.name, "top1": top1}
        for path, trained, top1 in zip(paths, loaded, alone, strict=True)
    ]
    return {"dataset": test.name, "checkpoints": checkpoints, "views": views.in_words(), **evaluation.figures()}


def _print(evaluation: Evaluation) -> None:
    table = Table("class", "images", "top-1")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in evaluation.per_class:
        table.add_row(
            Text(printable(part["label"])), f"{part['support']}", f"{part['recall']:.2%}" if part["support"] else "-"
        )
    table.add_section()
    images = len(evaluation.labels)
    table.add_row("all", f"{images}", f"{evaluation.top1:.2%}")
    output = type(console)()
    output.print(table)
    first = f"top-1 {evaluation.top1:.4f}  top-{evaluation.k} {evaluation.top_k:.4f}  images {images}"
    output.print(first, highlight=False)
    output.print(
        f"calibration error {evaluation.calibration_error:.4f}  negative log-likelihood "
        f"{evaluation.negative_log_likelihood:.4f}  Brier score {evaluation.brier_score:.4f}",
        highlight=False,
        soft_wrap=True,
    )
