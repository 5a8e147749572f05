"""Plots of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

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
