"""Pictures of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from models.palette import BLUE, VERMILION

if TYPE_CHECKING:  # each module needs packages of its own
    from benchmarks import engines as engines_benchmark
    from benchmarks import fusion as fusion_benchmark
    from benchmarks.gpu import executors as gpu_benchmark


def engines(rows: Sequence[engines_benchmark.EngineRow], path: Path) -> None:
    """Throughput of each engine, one group of bars per engine and one bar per batch size."""
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


def fusion(rows: Sequence[fusion_benchmark.FusionRow], path: Path) -> None:
    """Throughput with fusion and without it."""
    names = [f"{row.runtime}\n{row.precision}, batch {row.batch}" for row in rows]
    figure, axes = plt.subplots(figsize=(7, 0.7 * len(rows) + 1), layout="constrained")
    places = np.arange(len(rows))
    axes.barh(places, [row.images_per_second for row in rows], 0.4, color=BLUE, label="additions inside convolutions")
    without = [row.images_per_second_without for row in rows]
    axes.barh(places + 0.4, without, 0.4, color=VERMILION, label="additions on their own")
    for place, row in zip(places, rows, strict=True):
        axes.text(row.images_per_second, float(place), f" {row.gain:+.1%}", va="center", fontsize=8)
    axes.set_yticks(places + 0.2, names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="images per second")
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, path)


def gpu(rows: Sequence[gpu_benchmark.GpuRow], path: Path) -> None:
    """Throughput over batch size: a line per executor and precision, a panel per model."""
    models = list(dict.fromkeys(row.model for row in rows))
    figure, panels = plt.subplots(1, len(models), figsize=(6 * len(models), 4), layout="constrained", squeeze=False)
    for axes, model in zip(panels[0], models, strict=True):
        for kind in dict.fromkeys((row.executor, row.precision) for row in rows):
            chosen = [row for row in rows if (row.model, row.executor, row.precision) == (model, *kind)]
            axes.plot([row.batch for row in chosen], [row.all_streams for row in chosen], "o-", label=" ".join(kind))
        axes.set(title=model, xlabel="batch", ylabel="images per second")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    save(figure, path)


def _shades(count: int) -> list[tuple[float, ...]]:
    return [tuple(color) for color in plt.get_cmap("cividis")(np.linspace(0.25, 0.8, count))]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
