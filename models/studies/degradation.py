"""Deeper plain networks have a higher training error, deeper residual ones do not (He et al. 2016a, Figs. 1 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from models import palette
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers
from models.studies.training import TrainingSettings, training

NAME = "degradation"
TITLE = "Training and test error of plain and residual networks with 20 and 56 layers"
NEEDS_DATA = True
SETTINGS = TrainingSettings
QUICK = {"seeds": 1, "epochs": 2, "train_images": 1_000, "test_images": 500, "size": 14, "batch_size": 64}

# Two processes that share the work take the deep and the shallow ones in turn.
NETWORKS = ("plain20", "plain56", "resnet56", "resnet20")


def split(settings: TrainingSettings, data: Path) -> list[Piece]:
    return [training(arch, seed, settings, data) for seed in range(settings.seeds) for arch in NETWORKS]


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """Errors by network: a curve [seeds, epochs] for each of both splits, and those of the trained networks [seeds]."""
    networks = {}
    for arch in NETWORKS:
        runs = [numbers for name, numbers in results.items() if name.startswith(f"{arch} ")]
        networks[arch] = {
            "train_curve": [[epoch["train_error"] for epoch in run["curve"]] for run in runs],
            "test_curve": [[epoch["test_error"] for epoch in run["curve"]] for run in runs],
            "train_loss": [run["curve"][-1]["train_loss"] for run in runs],
            "train_error": [run["train_error"] for run in runs],
            "test_error": [run["test_error"] for run in runs],
        }
    return {"networks": networks}


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(2, share_y=True)
    for panel, family, title in ((axes[0], "plain", "plain"), (axes[1], "resnet", "residual")):
        for layers, color in ((20, palette.BLUE), (56, palette.VERMILION)):
            network = numbers["networks"][f"{family}{layers}"]
            epochs = np.arange(1, len(network["train_curve"][0]) + 1)
            for curve, style in (("train", "-"), ("test", "--")):
                values = 100 * np.asarray(network[f"{curve}_curve"])
                label = f"{layers} layers, {'training' if curve == 'train' else curve}"
                figures.line_with_spread(panel, epochs, values, color=color, label=label, style=style)
        panel.set(title=title, xlabel="epoch", ylim=(0, None))
        panel.legend()
    axes[0].set_ylabel("error in %")
    return figure
