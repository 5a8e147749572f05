"""The picture of a tuning profile. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from models.palette import BLACK, COLOURS
from models.runtime.tuning import Measurement, TuningProfile, engine_of

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import ScalarFormatter

_MARKERS = "osD^vPX"
_LINES = ("--", "-", ":", "-.")


def plot(profile: TuningProfile, path: Path) -> None:
    """Write throughput against latency as PNG and SVG: a line per engine, a point per batch size."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    groups: dict[tuple[str, str, int], list[Measurement]] = {}
    for row in profile.measurements:
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
    if (best := profile.best()) is not None:
        axes.plot(best.latency_ms, best.images_per_second, "*", color=BLACK, markersize=12, label="best")
    if (bound := profile.bounds.max_latency_ms) is not None:
        axes.axvline(bound, color=BLACK, linewidth=0.8, linestyle=":", label="bound")
    axes.set(xlabel="milliseconds per batch", ylabel="images per second", xscale="log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_title(f"{profile.model} version {profile.version}\n{profile.host.cpu}", fontsize=9)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
