"""The tables as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks import engines as engines_benchmark
from benchmarks import fusion as fusion_benchmark
from models.plots import BLUE, ORANGE


def engines(rows: Sequence[engines_benchmark.Row], path: Path) -> None:
    """Throughput of each engine, one group of bars a batch size."""
    names = list(dict.fromkeys(row.engine for row in rows))
    batches = list(dict.fromkeys(row.batch for row in rows))
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(rows) + 1), layout="constrained")
    height = 0.8 / len(batches)
    for index, (batch, color) in enumerate(zip(batches, _shades(len(batches)), strict=True)):
        chosen = {row.engine: row for row in rows if row.batch == batch}
        places = np.arange(len(names)) + index * height
        axes.barh(places, [chosen[name].images_per_second for name in names], height, color=color, label=str(batch))
        for place, name in zip(places, names, strict=True):
            row = chosen[name]
            axes.text(row.images_per_second, place, f" {row.ratio:.2f} x", va="center", fontsize=8)
    axes.set_yticks(np.arange(len(names)) + height * (len(batches) - 1) / 2, names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="images per second")
    figure.legend(loc="outside upper center", ncols=len(batches), title="batch")
    save(figure, path)


def fusion(rows: Sequence[fusion_benchmark.Row], path: Path) -> None:
    """Throughput with fusion and without it."""
    names = [f"{row.runtime}\n{row.precision}, batch {row.batch}" for row in rows]
    figure, axes = plt.subplots(figsize=(7, 0.7 * len(rows) + 1), layout="constrained")
    places = np.arange(len(rows))
    axes.barh(places, [row.images_per_second for row in rows], 0.4, color=BLUE, label="additions inside convolutions")
    without = [row.images_per_second_without for row in rows]
    axes.barh(places + 0.4, without, 0.4, color=ORANGE, label="additions on their own")
    for place, row in zip(places, rows, strict=True):
        axes.text(row.images_per_second, float(place), f" {row.gain:+.1%}", va="center", fontsize=8)
    axes.set_yticks(places + 0.2, names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="images per second")
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, path)


def _shades(count: int) -> list[tuple[float, ...]]:
    return [tuple(color) for color in plt.get_cmap("cividis")(np.linspace(0.25, 0.8, count))]


def save(figure: Figure, path: Path) -> None:
    """As PNG and as SVG, next to each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
