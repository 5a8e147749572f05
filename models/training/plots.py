"""Plots of training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from models.palette import BLUE, VERMILION

matplotlib.use("Agg")

from matplotlib import pyplot as plt


def plot_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the error over epochs, of training and, if there is one, of validation."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    epochs = [figures["epoch"] for figures in history]
    axes.plot(epochs, [100 * f["train_error"] for f in history], color=BLUE, label="training (augmented)")
    if "validation_error" in history[-1]:
        axes.plot(epochs, [100 * f["validation_error"] for f in history], color=VERMILION, label="validation")
    axes.set(xlabel="epoch", ylabel="error in %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_confusion(matrix: NDArray[np.int64], classes: tuple[str, ...], path: Path) -> None:
    """Write a confusion matrix: true classes by predicted classes, in per cent of the true class."""
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = max(4.0, 0.55 * len(classes))
    figure, axes = plt.subplots(figsize=(size + 1.5, size), layout="constrained")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= 30:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            shade = "white" if share[row, column] > 50 else "black"
            axes.text(column, row, f"{share[row, column]:.1f}", ha="center", va="center", color=shade, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, label="% of the true class")
    figure.savefig(path, dpi=120)
    plt.close(figure)
