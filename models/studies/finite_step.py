"""The neighbourhood in which the gradient is valid at initialisation: the conjecture why plain networks fail.

The parameters of the early layers take one step down the gradient. By the length of the step, the study compares the
predicted change of the loss with the actual change, and the gradients before and after.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from models import architectures, palette
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers, StudySettings
from models.studies.training import images
from models.training.device import best_device
from models.training.evaluate import normalise
from models.training.input.splits import measure_preprocess

NAME = "finite-step"
TITLE = "Predicted and actual change of the loss after a step of the early layers, at initialisation"
NEEDS_DATA = True


class FiniteStepSettings(StudySettings):
    seeds: PositiveInt = 5
    images: PositiveInt = 128
    """One batch, drawn from the training split."""
    size: PositiveInt | None = None
    """Height and width in pixels to which images are reduced; None leaves them as they are stored."""
    lengths: PositiveInt = 13
    """Step lengths, evenly spaced in the logarithm from 1e-7 to 1e-1 of the parameters' length."""


SETTINGS = FiniteStepSettings
QUICK = {"seeds": 2, "images": 64, "lengths": 7, "size": 14}

NETWORKS = ("plain20", "plain56", "resnet20", "resnet56")


def split(settings: FiniteStepSettings, data: Path) -> list[Piece]:
    return [
        Piece(
            f"{NAME} {arch} seed {seed}",
            {**settings.model_dump(exclude={"seeds"}), "data": images(data, "train", settings.images, None).name},
            functools.partial(_piece, arch, seed, settings, data),
            cost=int(arch[-2:]),
        )
        for seed in range(settings.seeds)
        for arch in NETWORKS
    ]


def _piece(arch: str, seed: int, settings: FiniteStepSettings, data: Path, _: Path) -> Numbers:
    batch = images(data, "train", settings.images, settings.size)
    device = best_device()
    inputs = normalise(torch.from_numpy(batch.array).permute(0, 3, 1, 2).to(device), measure_preprocess(batch))
    labels = torch.from_numpy(batch.labels).to(device)
    torch.manual_seed(seed)
    model = architectures.build(arch, len(batch.classes), inputs.shape[1]).to(device).double()
    return measure(model, inputs.double(), labels, np.geomspace(1e-7, 1e-1, settings.lengths).tolist())


def early_parameters(model: architectures.ResNet) -> list[nn.Parameter]:
    """The weights of the stem and of the first block's convolutions: three layers."""
    first_block = next(model.stages[0].children())
    return [p for part in (model.stem, first_block) for p in part.parameters() if p.ndim > 1]


def measure(model: architectures.ResNet, inputs: Tensor, labels: Tensor, lengths: list[float]) -> Numbers:
    """For each length, relative to that of the parameters: actual / predicted change, and the gradients' cosine.

    Batch normalisation takes its statistics from the batch, as in training.
    """
    parameters = early_parameters(model)

    def loss_and_gradient() -> tuple[float, Tensor]:
        loss = F.cross_entropy(model(inputs), labels)
        return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    start = [p.detach().clone() for p in parameters]
    length = torch.cat([p.flatten() for p in start]).norm()
    before, gradient = loss_and_gradient()
    direction = -gradient / gradient.norm()
    pieces = direction.split([p.numel() for p in parameters])
    ratios, cosines = [], []
    for relative in lengths:
        with torch.no_grad():
            for parameter, origin, piece in zip(parameters, start, pieces, strict=True):
                parameter.copy_(origin + relative * length * piece.view_as(origin))
        after, moved = loss_and_gradient()
        ratios.append((after - before) / float(-gradient.norm() * relative * length))
        cosines.append(float(F.cosine_similarity(gradient, moved, dim=0)))
    return {"length": lengths, "ratio": ratios, "cosine": cosines, "loss": before, "gradient": float(gradient.norm())}


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By network: actual / predicted change and cosine, [seeds, lengths]."""
    summary: Numbers = {}
    for arch in NETWORKS:
        runs = [numbers for name, numbers in results.items() if f" {arch} " in name]
        summary[arch] = {key: [run[key] for run in runs] for key in ("ratio", "cosine", "loss", "gradient")}
        summary["length"] = runs[0]["length"]
    return summary


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(2)
    colors = {"plain": palette.VERMILION, "resnet": palette.BLUE}
    for key, panel in zip(("ratio", "cosine"), axes, strict=True):
        for arch in NETWORKS:
            family, layers = arch[:-2], arch[-2:]
            label = f"{'plain' if family == 'plain' else 'residual'}, {layers} layers"
            style = "-" if layers == "56" else "--"
            _median(panel, numbers["length"], numbers[arch][key], colors[family], label, style)
        panel.axhline(0, color="black", linewidth=0.6)
        panel.set(xscale="log", xlabel="length of the step / length of the parameters")
    axes[0].set(title="loss", ylabel="actual / predicted decrease", ylim=(-0.15, 1.1))
    axes[1].set(title="gradient", ylabel="cosine, before and after the step", ylim=(-0.25, 1.05))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _median(panel: Axes, x: list[float], values: list[list[float]], color: str, label: str, style: str) -> None:
    """Median over seeds, and the middle half as a band: a ratio of small numbers has outliers."""
    low, middle, high = np.quantile(np.asarray(values), (0.25, 0.5, 0.75), axis=0)
    panel.plot(x, middle, style, color=color, label=label)
    panel.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
