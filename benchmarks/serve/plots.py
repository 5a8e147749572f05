"""The table of `python -m benchmarks serve` as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.ticker import LogFormatter

from benchmarks.plots import save
from benchmarks.serve.report import LoadRow
from models.palette import BLUE, GREEN, PURPLE, VERMILION

_COLOURS = {"jpeg": BLUE, "png": VERMILION, "many": GREEN, "tensor": PURPLE}


def connections(rows: Sequence[LoadRow], path: Path) -> None:
    """Throughput with its ceiling, and p99, against the number of connections."""
    figure, (rates, tails) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for kind, colour in _COLOURS.items():
        closed = [row for row in rows if row.kind == kind and row.connections is not None]
        if not closed:
            continue
        at = [row.connections for row in closed]
        rates.plot(at, [row.images_per_second for row in closed], "o-", color=colour, label=kind)
        rates.plot(at, [row.ceiling for row in closed], "--", color=colour, linewidth=1)
        tails.plot(at, [row.p99 for row in closed], "o-", color=colour, label=kind)
    measured = any(row.images_per_second for row in rows), any(row.p99 for row in rows)
    for axes, what, some in zip(
        (rates, tails), ("images per second (dashed: ceiling)", "p99 in ms"), measured, strict=True
    ):
        # matplotlib warns of an empty logarithmic axis.
        axes.set(xlabel="connections", ylabel=what, xscale="log", yscale="log" if some else "linear")
        axes.set_xticks(sorted({row.connections for row in rows if row.connections}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axes.grid(alpha=0.3)
    rates.legend()
    save(figure, path)


def latencies(rows: Sequence[LoadRow], path: Path) -> None:
    """Share of the answers that took longer, against latency, on logarithmic axes."""
    shown = [row for row in rows if row.curve and (row.share is not None or row.kind == "jpeg")]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    shades = plt.get_cmap("viridis")
    for index, row in enumerate(shown):
        shares, times = zip(*row.curve, strict=True)
        style = "-" if row.share is None else "--"
        colour = shades(index / max(1, len(shown)))
        axes.plot(times, [1 - share for share in shares], style, color=colour, label=row.load)
    axes.set(xscale="log", yscale="log", xlabel="latency in ms", ylabel="share of answers that took longer")
    axes.grid(alpha=0.3)
    if shown:
        axes.legend()
    save(figure, path)
