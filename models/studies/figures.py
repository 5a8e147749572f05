"""The style of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # The same numbers give the same bytes.
    "svg.hashsalt": "resnet-study",
}


def panels(
    columns: int = 1, *, rows: int = 1, height: float = 3.6, share_y: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure with its panels, row by row; `height` is in inches."""
    plt.rcParams.update(_STYLE)
    width = 5.4 if columns == 1 else 4.0 * columns
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", sharey=share_y, squeeze=False
    )
    return figure, list(axes.flat)


def line_with_spread(
    axes: Axes, x: ArrayLike, values: ArrayLike, *, color: str, label: str | None = None, style: str = "-"
) -> None:
    """Plot the mean of `values` [seeds, points] over the seeds as a line, and their range as a band."""
    array = np.asarray(values, float)
    axes.plot(x, array.mean(0), style, color=color, label=label)
    if len(array) > 1:
        axes.fill_between(x, array.min(0), array.max(0), color=color, alpha=0.18, linewidth=0)


def dots(axes: Axes, place: float, values: ArrayLike, color: str) -> None:
    """One dot per seed above `place`, and a line at their mean."""
    array = np.asarray(values, float)
    axes.plot([place] * len(array), array, "o", color=color, markersize=5, alpha=0.7)
    axes.plot([place - 0.2, place + 0.2], [array.mean()] * 2, color=color, linewidth=2)


def save(figure: Figure, path: Path) -> None:
    """Write `path` as PNG and SVG, without the date and the writer's version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=130, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    plt.close(figure)
