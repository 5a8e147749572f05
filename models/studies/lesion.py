"""Accuracy without some blocks, and the length of the paths that train a residual network (Veit et al. 2016)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt, field_validator

from models import palette
from models.architectures import VARIANTS
from models.artifact.manifest import sha256
from models.data import DataError, load
from models.studies import deletion, figures
from models.studies.deletion import Images
from models.studies.pieces import Piece
from models.studies.study import Numbers
from models.studies.training import CHECKPOINT, TrainingSettings, training
from models.training import checkpoint
from models.training.checkpoint import Checkpoint, CheckpointError
from models.training.device import best_device
from models.training.evaluate import normalise

NAME = "lesion"
TITLE = "Accuracy of a plain and a residual network without some of their blocks"
NEEDS_DATA = True

FAMILIES = {"plain": "plain", "residual": "resnet"}
"""Families in the names of checkpoints and in those of architectures."""
_COUNTS = (1, 2, 3, 5, 8, 12, 16, 20, 24)
"""Numbers of blocks that are deleted together, up to the number of blocks."""
_EXCHANGES = (1, 2, 4, 8, 16)


class LesionSettings(TrainingSettings):
    """Without `checkpoints`, the networks are those that `degradation` trains with the same settings and seeds."""

    layers: PositiveInt = 56
    """Layers of both networks, as in their names: 20, 32, 44, 56, 110."""
    checkpoints: Path | None = Field(default=None, exclude=True)
    """Folder of trained networks, such as plain56-seed0.safetensors and residual56-seed0.safetensors."""
    measured_images: PositiveInt = 1_000
    """Images of the test split for each accuracy."""
    draws: PositiveInt = 5
    """Random sets of blocks, orders of blocks and paths, for each point."""
    gradient_images: PositiveInt = 32

    @field_validator("layers")
    @classmethod
    def _in_table(cls, layers: int) -> int:
        if any(f"{arch}{layers}" not in VARIANTS for arch in FAMILIES.values()):
            raise ValueError(f"there are no plain and residual networks with {layers} layers")
        return layers


SETTINGS = LesionSettings
QUICK = {"seeds": 1, "layers": 20, "epochs": 2, "train_images": 1_000, "test_images": 500, "size": 14, "batch_size": 64,
         "measured_images": 250, "draws": 2, "gradient_images": 8}  # fmt: skip


def split(settings: LesionSettings, data: Path) -> list[Piece]:
    pieces = []
    for seed in range(settings.seeds):
        for family, arch in FAMILIES.items():
            network = f"{arch}{settings.layers}"
            name = f"lesion {family} seed {seed}"
            own = {key: getattr(settings, key) for key in ("measured_images", "draws", "gradient_images")}
            # Three passes per image of a training, one here, over so many measurements.
            blocks = sum(VARIANTS[network].depths)
            cost = settings.measured_images * blocks * (blocks + settings.draws * (len(_COUNTS) + len(_EXCHANGES))) / 3
            if settings.checkpoints is None:
                trained = training(network, seed, settings, data)
                work = functools.partial(_work, settings, data, seed, trained)
                pieces += [trained, Piece(name, {"training": trained.identity, **own}, work, cost, needs=trained)]
            else:
                path = settings.checkpoints / f"{family}{settings.layers}-seed{seed}.safetensors"
                if not path.is_file():
                    raise DataError(f"{path}: there is no such checkpoint: resnet-study degradation writes it")
                work = functools.partial(_work, settings, data, seed, path)
                pieces.append(Piece(name, {"checkpoint": sha256(path), **own}, work, cost))
    return pieces


def _work(settings: LesionSettings, data: Path, seed: int, trained: Piece | Path, folder: Path) -> Numbers:
    path = trained if isinstance(trained, Path) else trained.folder(folder.parent) / CHECKPOINT
    try:
        loaded = checkpoint.load(path)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    return measure(loaded, data, settings, seed)


def images_for(trained: Checkpoint, data: Path, count: int) -> Images:
    """Images of the test split, drawn with one fixed seed, for a network on the best device.

    Raises:
        DataError: the data set is missing or damaged.
    """
    test = load(data, "test", trained.preprocess)
    chosen = np.sort(np.random.default_rng(0).permutation(len(test.labels))[:count])
    pixels = torch.from_numpy(test.images(chosen)).permute(0, 3, 1, 2)
    device = best_device()
    labels = torch.from_numpy(test.labels[chosen].astype(np.int64))
    return Images(normalise(pixels, trained.preprocess).to(device), labels.to(device))


def measure(trained: Checkpoint, data: Path, settings: LesionSettings, seed: int) -> Numbers:
    """All numbers of one network."""
    model = trained.model().eval().to(best_device())
    images, rng = images_for(trained, data, settings.measured_images), np.random.default_rng(seed)
    kept = deletion.fixed_shape(model)
    counts = [count for count in _COUNTS if count <= len(kept)]
    several = deletion.without_several(model, images, counts, settings.draws, rng)
    few = Images(images.inputs[: settings.gradient_images], images.labels[: settings.gradient_images])
    shortcuts = not trained.architecture.name.startswith("plain")
    return {
        "whole": deletion.accuracy(model, images),
        "classes": len(trained.labels),
        "fixed_shape": kept,
        "without_each": deletion.without_each(model, images),
        "counts": counts,
        "without_several": several,
        "exchanges": list(_EXCHANGES),
        "exchanged": deletion.in_other_orders(model, images, _EXCHANGES, settings.draws, rng),
        "gradient": deletion.gradient_by_length(model, few, settings.draws, rng) if shortcuts else None,
    }


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By family: accuracies [seeds] and [seeds, points], and the distribution of the gradient over path lengths."""
    summary: dict[str, Any] = {}
    for family in FAMILIES:
        runs = [numbers for name, numbers in results.items() if name.startswith(f"lesion {family} ")]
        first = runs[0]
        summary[family] = {
            "whole": [run["whole"] for run in runs],
            "without_each": [run["without_each"] for run in runs],
            "mean_fall": [mean_fall(run) for run in runs],
            "without_several": [run["without_several"] for run in runs],
            "exchanged": [run["exchanged"]["accuracy"] for run in runs],
            "correlation": [run["exchanged"]["correlation"] for run in runs],
            **{key: first[key] for key in ("classes", "fixed_shape", "counts", "exchanges")},
        }
    gradients = [run["gradient"] for run in results.values() if run.get("gradient")]
    shares = [effective_share(gradient) for gradient in gradients]
    summary["paths"] = {
        "gradient": gradients,
        "share": shares,
        "mean_length": [float(np.arange(len(share)) @ np.asarray(share)) for share in shares],
        "range": [central_range(share) for share in shares],
    }
    return summary


def mean_fall(run: Numbers) -> float:
    """By how much the accuracy falls without one block, on average over the blocks that keep the shape."""
    return float(np.mean([run["whole"] - run["without_each"][place] for place in run["fixed_shape"]]))


def effective_share(gradient: list[float]) -> list[float]:
    """Share of all paths of each length in the gradient: their number, binomial, times the norm along one of them."""
    count = len(gradient) - 1
    totals = np.array([math.comb(count, length) * norm for length, norm in enumerate(gradient)])
    return (totals / totals.sum()).tolist()  # type: ignore[no-any-return]


def central_range(share: list[float], part: float = 0.9) -> tuple[int, int]:
    """The lengths between which the central part of the gradient is."""
    cumulative = np.cumsum(share)
    low, high = np.searchsorted(cumulative, [(1 - part) / 2, (1 + part) / 2])
    return int(low), int(high)


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(2, rows=2, height=6.6)
    for family, color in (("residual", palette.BLUE), ("plain", palette.VERMILION)):
        found = numbers[family]
        whole = 100 * float(np.mean(found["whole"]))
        each = 100 * np.array(found["without_each"], float)  # None becomes nan, a gap
        figures.line_with_spread(axes[0], np.arange(1, each.shape[1] + 1), each, color=color, label=family)
        axes[0].axhline(whole, color=color, linestyle=":", linewidth=1)
        several = 100 * np.insert(np.asarray(found["without_several"]), 0, found["whole"], axis=1)
        figures.line_with_spread(axes[1], [0, *found["counts"]], several, color=color, label=family)
        swapped = 100 * np.insert(np.asarray(found["exchanged"]), 0, found["whole"], axis=1)
        figures.line_with_spread(axes[2], [0, *found["exchanges"]], swapped, color=color, label=family)
    for panel, label in zip(axes, ("deleted block", "deleted blocks", "exchanges of two blocks"), strict=False):
        chance = 100 / numbers["plain"]["classes"]
        panel.axhline(chance, color="grey", linestyle="--", linewidth=1)
        panel.set(xlabel=label, ylabel="test accuracy in %", ylim=(0, 100))
        panel.legend()
    _draw_paths(axes[3], numbers["paths"])
    return figure


def _draw_paths(panel: Axes, paths: Numbers) -> None:
    share = 100 * np.asarray(paths["share"])
    count = share.shape[1] - 1
    lengths = np.arange(count + 1)
    every = [100 * math.comb(count, length) / 2**count for length in range(count + 1)]
    figures.line_with_spread(panel, lengths, share, color=palette.BLUE, label="gradient along them")
    panel.plot(lengths, every, color="grey", linestyle="--", label="number of paths")
    panel.set(xlabel="branches on the path", ylabel="share of all paths in %", ylim=(0, None))
    panel.legend()
