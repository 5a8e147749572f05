"""The tables as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from models.runtime.tuning import Measurement, Tuning, engine_of
from models.training.plots import BLUE, COLOURS, ORANGE

if TYPE_CHECKING:  # each needs packages that the others' pictures do not
    from benchmarks import engines as engines_benchmark
    from benchmarks import fusion as fusion_benchmark
    from benchmarks import gpu_executors as gpu_benchmark

_MARKERS = "osD^vPX"
_LINES = ("--", "-", ":", "-.")


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


def tuning(measured: Tuning, path: Path) -> None:
    """Throughput against latency, a line an engine; its points are the sizes of the batches."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    groups: dict[tuple[str, str, int], list[Measurement]] = {}
    for row in measured.measurements:
        groups.setdefault(engine_of(row), []).append(row)
    kinds = list(dict.fromkeys((executor, precision) for executor, precision, _ in groups))
    threads = sorted({count for _, _, count in groups})
    for (executor, precision, count), rows in groups.items():
        kind = kinds.index((executor, precision))
        axes.plot(
            [row.latency_ms for row in rows],
            [row.images_per_second for row in rows],
            color=COLOURS[kind % len(COLOURS)],
            marker=_MARKERS[kind % len(_MARKERS)],
            linestyle=_LINES[threads.index(count) % len(_LINES)],
            markersize=4,
            label=f"{executor} {precision}, {count} thread{'s' if count > 1 else ''}",
        )
        for row in (rows[0], rows[-1]):
            place = (row.latency_ms, row.images_per_second)
            axes.annotate(str(row.batch), place, (0, 4), textcoords="offset points", fontsize=7, ha="center")
    if (best := measured.best()) is not None:
        axes.plot(best.latency_ms, best.images_per_second, "*", color="black", markersize=12, label="best")
    if (bound := measured.bounds.max_latency_ms) is not None:
        axes.axvline(bound, color="black", linewidth=0.8, linestyle=":", label="bound")
    axes.set(xlabel="milliseconds a batch", ylabel="images per second", xscale="log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_title(f"{measured.model} version {measured.version}\n{measured.host.processor}", fontsize=9)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    save(figure, path)


def gpu(rows: Sequence[gpu_benchmark.Row], path: Path) -> None:
    """Throughput over batch size, a line an executor and precision, a panel a model."""
    models = list(dict.fromkeys(row.model for row in rows))
    figure, panels = plt.subplots(1, len(models), figsize=(6 * len(models), 4), layout="constrained", squeeze=False)
    for axes, model in zip(panels[0], models, strict=True):
        for kind in dict.fromkeys((row.executor, row.precision) for row in rows):
            chosen = [row for row in rows if (row.model, row.executor, row.precision) == (model, *kind)]
            axes.plot([row.batch for row in chosen], [row.all_lanes for row in chosen], "o-", label=" ".join(kind))
        axes.set(title=model, xlabel="batch", ylabel="images per second")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    save(figure, path)


def _shades(count: int) -> list[tuple[float, ...]]:
    return [tuple(color) for color in plt.get_cmap("cividis")(np.linspace(0.25, 0.8, count))]


def save(figure: Figure, path: Path) -> None:
    """As PNG and as SVG, next to each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
