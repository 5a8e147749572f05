"""Shortcut options A, B and C, and none, at one depth (He et al. 2016a, Table 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from models import architectures, palette
from models.architectures.complexity import count_parameters
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers
from models.studies.training import TrainingSettings, training

NAME = "shortcuts"
TITLE = "Shortcut options A, B, C and none with 20 layers"
NEEDS_DATA = True
SETTINGS = TrainingSettings
QUICK = {"seeds": 1, "epochs": 2, "train_images": 1_000, "test_images": 500, "size": 14, "batch_size": 64}

# A and none are rows of the table of their own, and so are trained once for this study and that of degradation.
OPTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "none": ("plain20", {}),
    "A": ("resnet20", {}),
    "B": ("resnet20", {"shortcut": "B"}),
    "C": ("resnet20", {"shortcut": "C"}),
}


def split(settings: TrainingSettings, data: Path) -> list[Piece]:
    return [
        training(arch, seed, settings, data, **options)
        for seed in range(settings.seeds)
        for arch, options in OPTIONS.values()
    ]


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By option: errors of the trained networks [seeds], and the number of parameters."""
    summary = {}
    for option, (arch, options) in OPTIONS.items():
        prefix = arch + "".join(f" {key} {value}" for key, value in options.items()) + " seed"
        runs = [numbers for name, numbers in results.items() if name.startswith(prefix)]
        with torch.device("meta"):
            parameters = count_parameters(architectures.build(arch, 10, 1, **options))
        summary[option] = {
            "train_error": [run["train_error"] for run in runs],
            "train_loss": [run["curve"][-1]["train_loss"] for run in runs],
            "test_error": [run["test_error"] for run in runs],
            "parameters": parameters,
        }
    return summary


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels()
    for place, option in enumerate(numbers):
        values = 100 * np.asarray(numbers[option]["test_error"])
        color = palette.VERMILION if option == "none" else palette.BLUE
        figures.dots(axes[0], place, values, color)
    labels = [f"{option}\n{numbers[option]['parameters'] / 1e3:.0f} k" for option in numbers]
    axes[0].set_xticks(range(len(numbers)), labels)
    axes[0].set(xlabel="shortcut, and parameters of the network", ylabel="test error in %")
    axes[0].margins(x=0.15, y=0.15)
    return figure
