"""Deeper plain networks have a higher training error, deeper residual ones do not (He et al. 2016a, Figs. 1 and 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import PositiveInt

from models import palette
from models.files import atomic_write
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers
from models.studies.training import CHECKPOINT, TrainingSettings, training

NAME = "degradation"
TITLE = "Training and test error of plain and residual networks with 20 and 56 layers"
NEEDS_DATA = True


class DegradationSettings(TrainingSettings):
    deep_seeds: PositiveInt | None = None
    """Repetitions with 56 layers, which take three times as long as those with 20; None takes `seeds`."""


SETTINGS = DegradationSettings
QUICK = {"seeds": 1, "epochs": 2, "train_images": 1_000, "test_images": 500, "size": 14, "batch_size": 64}

FAMILIES = {"plain": "plain", "residual": "resnet"}
DEPTHS = (20, 56)
NETWORKS = tuple(f"{family}{layers}" for layers in DEPTHS for family in FAMILIES.values())


def split(settings: DegradationSettings, data: Path) -> list[Piece]:
    """One seed of each network first, 20 layers before 56, then further seeds."""
    seeds = {20: settings.seeds, 56: settings.deep_seeds or settings.seeds}
    return [
        _with_checkpoint(training(f"{arch}{layers}", seed, settings, data), f"{family}{layers}-seed{seed}", settings)
        for seed in range(max(seeds.values()))
        for layers in DEPTHS
        if seed < seeds[layers]
        for family, arch in FAMILIES.items()
    ]


def _with_checkpoint(piece: Piece, name: str, settings: DegradationSettings) -> Piece:
    """The same piece; a network of all images at their own size is also written as NAME.safetensors beside its folder.

    `lesion` looks for these files.
    """
    if settings.train_images is not None or settings.size is not None:
        return piece

    def work(folder: Path) -> Numbers:
        numbers = piece.work(folder)
        atomic_write(folder.parent / f"{name}.safetensors", (folder / CHECKPOINT).read_bytes())
        return numbers

    return dataclasses.replace(piece, work=work)


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """Errors by network: a curve [seeds, epochs] for each of both splits, and those of the trained networks [seeds]."""
    networks = {}
    for arch in NETWORKS:
        runs = [numbers for name, numbers in results.items() if name.startswith(f"{arch} ")]
        networks[arch] = {
            "learning_rate": [epoch["lr"] for epoch in runs[0]["curve"]],
            "train_curve": [[epoch["train_error"] for epoch in run["curve"]] for run in runs],
            "test_curve": [[epoch["test_error"] for epoch in run["curve"]] for run in runs],
            "train_loss": [run["curve"][-1]["train_loss"] for run in runs],
            "train_error": [run["train_error"] for run in runs],
            "test_error": [run["test_error"] for run in runs],
        }
    return {"networks": networks}


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(3)
    for panel, (family, arch) in zip(axes, FAMILIES.items(), strict=False):
        for layers, color in zip(DEPTHS, (palette.BLUE, palette.VERMILION), strict=True):
            network = numbers["networks"][f"{arch}{layers}"]
            epochs = np.arange(1, len(network["train_curve"][0]) + 1)
            for curve, style in (("train", "-"), ("test", "--")):
                values = 100 * np.asarray(network[f"{curve}_curve"])
                label = f"{layers} layers, {'training' if curve == 'train' else curve}"
                figures.line_with_spread(panel, epochs, values, color=color, label=label, style=style)
        panel.set(title=family, xlabel="epoch", ylabel="error in %")
        panel.legend()
    top = max(axes[0].get_ylim()[1], axes[1].get_ylim()[1])
    for panel in axes[:2]:
        panel.set_ylim(0, top)
    _draw_trained(axes[2], numbers["networks"])
    return figure


def _draw_trained(panel: Axes, networks: Numbers) -> None:
    """The training error of each trained network, in evaluation mode: a dot per seed."""
    for place, name in enumerate(NETWORKS):
        color = palette.VERMILION if name.endswith("56") else palette.BLUE
        figures.dots(panel, place, 100 * np.asarray(networks[name]["train_error"]), color)
    labels = [f"{family}\n{layers}" for layers in DEPTHS for family in FAMILIES]
    panel.set_xticks(range(len(NETWORKS)), labels)
    panel.set(title="trained networks", ylabel="training error in %", ylim=(0, None))
    panel.margins(x=0.15)
