"""A folder with the report of an evaluation: report.html, pictures, and tables for other programs.

report.html        figures, tables and the pictures
evaluation.json    all figures, as `resnet-evaluate --json` prints them
classes.csv        precision, recall, F1 and support of each class
mistakes.csv       every misclassified image
confusion.png  reliability.png  mistakes.png
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.data import Dataset
from models.evaluation.metrics import Evaluation
from models.evaluation.plots import plot_confusion, plot_mistakes, plot_reliability
from models.files import atomic_write

_CONFUSIONS = 10
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}h2{margin-top:2.5rem}"""


def write_report(folder: Path, evaluation: Evaluation, data: Dataset, document: dict[str, Any]) -> None:
    """Write the report; files of the same names are replaced.

    Args:
        folder: created if it does not exist.
        evaluation: the figures.
        data: the images, for the sheet of mistakes.
        document: the document of `--json`.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plot_confusion(evaluation.confusion, evaluation.classes, folder / "confusion.png")
    plot_reliability(evaluation, folder / "reliability.png")
    plot_mistakes(evaluation, data, folder / "mistakes.png")
    names = ("label", "support", "precision", "recall", "f1")
    _write_csv(folder / "classes.csv", names, ([part[name] for name in names] for part in evaluation.per_class))
    _write_csv(folder / "mistakes.csv", ("index", "true", "predicted", "probability"), _mistakes(evaluation))
    atomic_write(folder / "evaluation.json", (json.dumps(document, indent=1) + "\n").encode())
    atomic_write(folder / "report.html", _page(evaluation, document).encode())


def _mistakes(evaluation: Evaluation) -> Iterable[Sequence[object]]:
    for index in evaluation.mistakes:
        true, predicted = (evaluation.classes[int(of[index])] for of in (evaluation.labels, evaluation.predicted))
        yield int(index), true, predicted, round(float(evaluation.confidence[index]), 6)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    atomic_write(path, text.getvalue().encode())


def _page(evaluation: Evaluation, document: dict[str, Any]) -> str:
    figures = [
        ("images", f"{document['images']:,}"),
        ("top-1", f"{evaluation.top1:.2%}"),
        (f"top-{evaluation.k}", f"{evaluation.top_k:.2%}"),
        ("expected calibration error, 15 bins", f"{evaluation.calibration_error:.4f}"),
        ("negative log-likelihood", f"{evaluation.negative_log_likelihood:.4f}"),
        ("Brier score", f"{evaluation.brier_score:.4f}"),
    ]
    members = [(part["file"], part["architecture"], f"{part['top1']:.2%}") for part in document["checkpoints"]]
    classes = [
        (part["label"], part["support"], *(f"{part[name]:.2%}" for name in ("precision", "recall", "f1")))
        for part in evaluation.per_class
    ]
    parts = [
        f"<h1>{html.escape(document['dataset'])}: top-1 {evaluation.top1:.2%}</h1>",
        f"<p>{html.escape(document['views'])}</p>",
        _table(("figure", "value"), figures),
        _table(("checkpoint", "architecture", "top-1 alone"), members),
        "<h2>Misclassified images</h2><p>The highest probabilities of a wrong class.</p>",
        '<img src="mistakes.png" alt="misclassified images">',
        "<h2>Confusion</h2>",
        _table(("true class", "predicted class", "images"), _most_confused(evaluation)),
        '<img src="confusion.png" alt="confusion matrix">',
        '<h2>Calibration</h2><img src="reliability.png" alt="reliability diagram">',
        "<h2>Classes</h2>",
        _table(("class", "images", "precision", "recall", "F1"), classes),
    ]
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _most_confused(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    wrong = evaluation.confusion * (1 - np.eye(len(evaluation.classes), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(evaluation.classes[row], evaluation.classes[column], int(wrong[row, column])) for row, column in pairs
            if wrong[row, column]]  # fmt: skip


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in header)]
    lines += ["".join(f"<td>{html.escape(str(value))}</td>" for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
