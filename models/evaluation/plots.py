"""Pictures of an evaluation: confusion matrix, reliability diagram, misclassified images."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from models.data import Dataset
from models.evaluation.metrics import Evaluation
from models.palette import BLUE, GREY, VERMILION

matplotlib.use("Agg")

from matplotlib import pyplot as plt

SHEET_IMAGES = 40
"""Misclassified images on the sheet."""
_COLUMNS = 8
_NAMED_CLASSES = 30
_MAX_INCHES = 17.0
_LABEL_CHARACTERS = 18


def plot_confusion(matrix: NDArray[np.int64], classes: tuple[str, ...], path: Path) -> None:
    """Write a confusion matrix: true classes by predicted classes, in per cent of the true class."""
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = min(max(4.0, 0.55 * len(classes)), _MAX_INCHES)
    figure, axes = plt.subplots(figsize=(size + 1.5, size), layout="constrained")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= _NAMED_CLASSES:
        names = [_shortened(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), names)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            shade = "white" if share[row, column] > 50 else "black"
            axes.text(column, row, f"{share[row, column]:.1f}", ha="center", va="center", color=shade, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, label="% of the true class")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_reliability(evaluation: Evaluation, path: Path) -> None:
    """Write the accuracy per bin of confidence, and the number of images in each (Guo et al. 2017, figure 1)."""
    bins = [part for part in evaluation.bins if part["images"]]
    left, width = [part["from"] for part in bins], 1 / len(evaluation.bins)
    figure, (upper, lower) = plt.subplots(2, figsize=(5, 6), height_ratios=(3, 1), sharex=True, layout="constrained")
    accuracy = [part["accuracy"] for part in bins]
    upper.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    confidence = [part["confidence"] for part in bins]
    upper.plot(confidence, accuracy, "o", color=VERMILION, markersize=5, label="at the mean confidence of the bin")
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="perfect calibration")
    error = evaluation.calibration_error
    upper.set(ylabel="accuracy", ylim=(0, 1), title=f"expected calibration error {error:.4f}")
    upper.legend(loc="upper left", fontsize=8)
    lower.bar(left, [part["images"] for part in bins], width, align="edge", color=GREY, edgecolor="white")
    lower.set(xlabel="confidence: probability of the first class", ylabel="images", xlim=(0, 1), yscale="log")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_mistakes(evaluation: Evaluation, data: Dataset, path: Path) -> None:
    """Write the misclassified images with the highest probability of a wrong class, as the network sees them."""
    chosen = evaluation.mistakes[:SHEET_IMAGES]
    rows = max(1, -(-len(chosen) // _COLUMNS))
    figure, grid = plt.subplots(rows, _COLUMNS, figsize=(1.55 * _COLUMNS, 2.05 * rows), layout="constrained")
    pixels = data.images(chosen)
    flat = np.ravel(grid).tolist()
    for axes in flat:
        axes.axis("off")
    for axes, index, image in zip(flat, chosen, pixels, strict=False):
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        true, predicted = (evaluation.classes[int(of[index])] for of in (evaluation.labels, evaluation.predicted))
        axes.set_title(f"{_shortened(true)}\n{_shortened(predicted)}", fontsize=8, color=VERMILION, pad=3)
        axes.text(
            0.5,
            -0.04,
            f"{evaluation.confidence[index]:.1%}",
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=8,
        )
    figure.suptitle("true class, then predicted class; below: probability of the predicted class", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shortened(name: str) -> str:
    """A class name as literal text: a dollar would begin a formula."""
    short = name if len(name) <= _LABEL_CHARACTERS else name[: _LABEL_CHARACTERS - 1] + "…"
    return short.replace("$", r"\$")
