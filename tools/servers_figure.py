"""Draws this service beside other servers, from the figures of a comparison.

    python -m tests.acceptance.workers 7        # measures, and writes docs/servers.json
    python -m tools.servers_figure              # draws docs/servers.png from it

Needs the `train` extra.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

from models.palette import BLUE, GREY

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1] / "docs"
FIGURES, PICTURE = DOCS / "servers.json", DOCS / "servers.png"
TITLES = {"resnet20": "ResNet-20, 32 x 32 PNG", "resnet50": "ResNet-50, 256 x 256 JPEG"}
NAMES = {
    "ours": "resnet-serve",
    "naive-1w": "FastAPI, 1 worker",
    "naive-2w": "FastAPI, 2 workers",
    "mosec": "Mosec",
    "mlserver": "MLServer",
    "litserve": "LitServe",
    "pytriton": "PyTriton",
    "torchserve": "TorchServe",
    "bentoml": "BentoML",
    "ray": "Ray Serve",
    "ray-ha": "Ray Serve, HAProxy",
}


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write a picture of requests per second over 32 connections, and of the latency over one.

    Args:
        figures: content of `docs/servers.json`: `machine`, `date`, and for each network `rates` and `latencies` by name
            of the server.
        path: PNG file.
    """
    networks = figures["networks"]
    rows = max(len(measured["rates"]) for measured in networks.values())
    figure, axes = plt.subplots(len(networks), 2, figsize=(10, 0.28 * rows * len(networks) + 1.2), layout="constrained")
    for row, (network, measured) in zip(axes, networks.items(), strict=True):
        _draw_bars(row[0], measured["rates"], highest_first=True)
        _draw_bars(row[1], measured["latencies"], highest_first=False)
        row[0].set_title(f"{TITLES[network]}: requests/s, 32 connections", fontsize=10, loc="left")
        row[1].set_title("median latency in ms, one connection", fontsize=10, loc="left")
    figure.supxlabel(f"{figures['machine']}, {figures['date']}", fontsize=8, color=GREY)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_bars(axes: Axes, values: dict[str, float], *, highest_first: bool) -> None:
    """One bar a server, the best one at the top."""
    order = sorted(values, key=lambda name: values[name], reverse=not highest_first)
    colours = [BLUE if name == "ours" else "#bbbbbb" for name in order]
    bars = axes.barh([NAMES.get(name, name) for name in order], [values[name] for name in order], color=colours)
    digits = ",.0f" if max(values.values()) >= 100 else ".1f"
    axes.bar_label(bars, [format(values[name], digits) for name in order], padding=3, fontsize=8)
    axes.margins(x=0.12, y=0.02)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


if __name__ == "__main__":
    draw(json.loads(FIGURES.read_text()), PICTURE)
