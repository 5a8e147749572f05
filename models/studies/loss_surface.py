"""The training loss around trained networks, along two filter-normalised random directions (Li et al. 2018)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from models.architectures import VARIANTS, ResNet
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers
from models.studies.training import CHECKPOINT, TrainingSettings, images, training
from models.training import checkpoint
from models.training.device import best_device, compute_dtype
from models.training.evaluate import normalise

NAME = "loss-surface"
TITLE = "Training loss around plain-56 and ResNet-56, along two filter-normalised random directions"
NEEDS_DATA = True


class LossSurfaceSettings(TrainingSettings):
    """The networks are those that `degradation` trains with the same settings and seed."""

    seeds: PositiveInt = 1
    points: PositiveInt = 21
    """Number of values per coordinate, evenly spaced."""
    reach: PositiveFloat = 1.0
    """Largest coordinate; at 1 a step is as long as the filter that it moves."""
    loss_images: PositiveInt = 1_000
    """Training images for the loss."""


SETTINGS = LossSurfaceSettings
QUICK = {"epochs": 1, "train_images": 500, "test_images": 200, "size": 14, "batch_size": 64, "points": 5,
         "loss_images": 100}  # fmt: skip

NETWORKS = ("plain56", "resnet56")


def split(settings: LossSurfaceSettings, data: Path) -> list[Piece]:
    pieces = []
    for seed in range(settings.seeds):
        for arch in NETWORKS:
            trained = training(arch, seed, settings, data)
            for row in range(settings.points):
                own = {key: getattr(settings, key) for key in ("points", "reach", "loss_images")}
                identity = {"training": trained.identity, **own}
                work = functools.partial(_row, row, seed, settings, data, trained)
                # Of a training's three passes one is forward.
                cost = settings.points * settings.loss_images * sum(VARIANTS[arch].depths) / 3
                surface = Piece(f"surface {arch} seed {seed} row {row}", identity, work, cost, needs=trained)
                pieces += [surface] if row else [trained, surface]
    return pieces


def _row(row: int, seed: int, settings: LossSurfaceSettings, data: Path, trained: Piece, folder: Path) -> Numbers:
    """The loss along one row of the grid."""
    device = best_device()
    loaded = checkpoint.load(trained.folder(folder.parent) / CHECKPOINT)
    batch = images(data, "train", settings.train_images, settings.size)
    chosen = np.arange(min(settings.loss_images, len(batch.labels)))
    inputs = normalise(torch.from_numpy(batch.array[chosen]).permute(0, 3, 1, 2), loaded.preprocess).to(device)
    labels = torch.from_numpy(batch.labels[chosen]).to(device)
    model = loaded.model().to(device)
    generator = torch.Generator().manual_seed(seed)
    horizontal, vertical = (filter_normalised(model, generator) for _ in range(2))
    coordinates = np.linspace(-settings.reach, settings.reach, settings.points).tolist()
    origin = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = []
    for x in coordinates:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(origin[name] + x * horizontal[name] + coordinates[row] * vertical[name])
        losses.append(loss(model, inputs, labels))
    return {"losses": losses, "reach": settings.reach}


def filter_normalised(model: ResNet, generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction in which every filter is as long as the network's own; none in biases and normalisation.

    Li et al. 2018, section 4.
    """
    direction = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            direction[name] = torch.zeros_like(parameter)
            continue
        random = torch.randn(parameter.shape, generator=generator).to(parameter)
        over = tuple(range(1, parameter.ndim))
        lengths = (tensor.square().sum(over, keepdim=True).sqrt() for tensor in (parameter.detach(), random))
        own, drawn = lengths
        direction[name] = random * own / drawn
    return direction


def loss(model: ResNet, inputs: Tensor, labels: Tensor, batch_size: int = 250) -> float:
    """Mean cross-entropy in evaluation mode."""
    total = 0.0
    dtype = compute_dtype("auto", inputs.device)
    with torch.inference_mode(), torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype != torch.float32):
        for images_, labels_ in zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True):
            images_ = images_.contiguous(memory_format=torch.channels_last)
            total += F.cross_entropy(model(images_).float(), labels_, reduction="sum").item()
    return total / len(labels)


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By network: the loss on the grid [seeds, vertical, horizontal]; errors of the trained network."""
    reach = next(numbers["reach"] for name, numbers in results.items() if name.startswith("surface "))
    summary: Numbers = {"reach": reach}
    for arch in NETWORKS:
        seeds = [name.removeprefix(f"{arch} ") for name in results if name.startswith(f"{arch} ")]
        summary[arch] = {
            "losses": [
                [[float(f"{x:.5g}") for x in numbers["losses"]]
                 for name, numbers in results.items() if name.startswith(f"surface {arch} {seed} ")]
                for seed in seeds
            ],
            "train_error": [results[f"{arch} {seed}"]["train_error"] for seed in seeds],
        }  # fmt: skip
        summary[arch]["falls"] = [falls(np.asarray(surface)) for surface in summary[arch]["losses"]]
    return summary


def falls(surface: NDArray[np.float64]) -> float:
    """The share of steps straight away from the trained network, in eight directions, in which the loss falls."""
    middle = len(surface) // 2
    out = np.arange(middle + 1)
    rays = [surface[middle + y * out, middle + x * out] for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
    return float((np.diff(rays) < 0).mean())


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(2, height=4.2)
    surfaces = [np.asarray(numbers[arch]["losses"][0]) for arch in NETWORKS]
    # One scale for both networks, four lines per factor of ten; beyond a loss of 100 all lines coincide.
    lowest, highest = min(map(np.min, surfaces)), max(100.0, min(map(np.max, surfaces)))
    exponents = np.arange(np.floor(4 * np.log10(lowest)), 4 * np.log10(highest) + 1)
    levels = 10 ** (exponents / 4)
    # The light end of the colours would not show on white.
    shades = LogNorm(levels[0], 30 * levels[-1])
    for panel, surface, family in zip(axes, surfaces, ("plain", "residual"), strict=True):
        reach = np.linspace(-numbers["reach"], numbers["reach"], len(surface))
        if ((surface.min() < levels) & (levels < surface.max())).any():
            lines = panel.contour(reach, reach, surface, levels=levels, cmap="cividis", norm=shades, linewidths=1)
            panel.clabel(lines, levels[exponents % 4 == 0], fmt="%g", fontsize=7)
        panel.plot(0, 0, "+", color="black")
        panel.set(
            title=f"training loss, {family}, 56 layers",
            aspect="equal",
            xlabel="first direction",
            ylabel="second direction",
        )
    return figure
