"""The effects of batch normalisation on signal, gradient and learning rate by depth, and SkipInit, which needs none.

A residual block without normalisation doubles the variance, so 54 blocks multiply it by 2^54; a normalised branch adds
the same amount each time (De and Smith 2020). A normalised plain network multiplies the gradient instead (Yang et al.
2019). SkipInit (De and Smith 2020, section 4) multiplies each branch by a learned number that begins at zero.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from models import architectures, palette
from models.architectures import VARIANTS, ResNet
from models.architectures.blocks import PostActivationBlock
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers
from models.studies.training import TrainingSettings, images, training
from models.training.device import best_device
from models.training.evaluate import normalise
from models.training.input.splits import measure_preprocess
from models.training.train import Diverged

NAME = "normalisation"
TITLE = "Signal, gradient and learning rate with batch normalisation, without, and with SkipInit, by depth"
NEEDS_DATA = True


class NormalisationSettings(TrainingSettings):
    """The defaults are a short training of few small images: 20 networks are trained."""

    train_images: PositiveInt | None = 2_000
    test_images: PositiveInt | None = 1_000
    size: PositiveInt | None = 14
    epochs: PositiveInt = 5
    batch_size: PositiveInt = 64
    augment: bool = False
    trained_seeds: PositiveInt = 1
    """Seeds with which networks are trained; signal and gradient at initialisation are measured with `seeds`."""
    trained_depths: Annotated[int, Field(ge=0, le=3)] = 2
    """Depths that are trained, the shallowest first; 110 layers take twice as long as the two others together."""
    rates: PositiveInt = 2
    """Learning rates: `peak_lr`, a tenth of it, a hundredth, ..."""


SETTINGS = NormalisationSettings
QUICK = {"seeds": 1, "epochs": 1, "train_images": 500, "test_images": 200, "size": 7, "rates": 1}

DEPTHS = (20, 56, 110)
CASES = {
    "plain, normalised": ("plain", "batch"),
    "plain, none": ("plain", "none"),
    "residual, normalised": ("resnet", "batch"),
    "residual, none": ("resnet", "none"),
    "residual, SkipInit": ("skipinit-resnet", "none"),
}
"""Names of the architectures, less the number of layers, and their normalisation."""
STYLES = ((palette.VERMILION, "-"), (palette.ORANGE, "--"), (palette.BLUE, "-"), (palette.SKY, "--"),
          (palette.GREEN, "-"))  # fmt: skip

_FRESH_IMAGES = 128


class SkipInitBlock(PostActivationBlock):
    """y = relu(shortcut(x) + alpha F(x)); alpha begins at zero, so a fresh block is its shortcut."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        z = self.convs[0](x)
        for conv in self.convs[1:]:
            z = conv(F.relu(z))
        assert self.shortcut is not None
        return F.relu(self.alpha * z + self.shortcut(x))


def add_skipinit() -> None:
    """Add the networks with SkipInit to the architectures; for this study alone, as no runtime fuses their block."""
    for layers in DEPTHS:
        VARIANTS[f"skipinit-resnet{layers}"] = dataclasses.replace(VARIANTS[f"resnet{layers}"], block=SkipInitBlock)


def split(settings: NormalisationSettings, data: Path) -> list[Piece]:
    add_skipinit()
    cases = [(name, layers, seed) for seed in range(settings.seeds) for layers in DEPTHS for name in CASES]
    fresh = [_fresh(name, layers, seed, settings, data) for name, layers, seed in cases]
    return fresh + [
        _tolerant(_trained(name, layers, seed, rate, settings, data), rate)
        for name, layers, seed in cases
        if seed < settings.trained_seeds and layers in DEPTHS[: settings.trained_depths]
        for rate in (settings.peak_lr / 10**power for power in range(settings.rates))
    ]


def _trained(name: str, layers: int, seed: int, rate: float, settings: NormalisationSettings, data: Path) -> Piece:
    arch, norm = CASES[name]
    options = {} if norm == "batch" else {"norm": norm}
    return training(f"{arch}{layers}", seed, settings.model_copy(update={"peak_lr": rate}), data, **options)


def _tolerant(piece: Piece, rate: float) -> Piece:
    """The same training under a name with its rate; a loss that is no longer finite is a result."""

    def work(folder: Path) -> Numbers:
        try:
            return piece.work(folder)
        except Diverged:
            return {"diverged": True}

    return dataclasses.replace(piece, name=f"{piece.name} rate {rate:g}", work=work)


def _fresh(name: str, layers: int, seed: int, settings: NormalisationSettings, data: Path) -> Piece:
    batch = images(data, "train", _FRESH_IMAGES, settings.size)

    def work(_: Path) -> Numbers:
        torch.manual_seed(seed)
        arch, norm = CASES[name]
        preprocess = measure_preprocess(batch)
        model = architectures.build(f"{arch}{layers}", len(batch.classes), preprocess.channels, norm=norm)
        inputs = normalise(torch.from_numpy(batch.array).permute(0, 3, 1, 2), preprocess)
        return measure(model.to(best_device()), inputs.to(best_device()), torch.from_numpy(batch.labels))

    identity = {"study": NAME, "data": batch.name, "images": batch.array.shape}
    return Piece(f"fresh {name} {layers} layers seed {seed}", identity, work, cost=_FRESH_IMAGES * layers)


def measure(model: ResNet, inputs: Tensor, labels: Tensor) -> Numbers:
    """Mean square of the signal after the stem and each block, [blocks + 1], and of the loss's gradient to it.

    The gradient is summed over the pixels and channels of an image, because their number changes between the stages.
    `parameters` is the norm of the gradient to all parameters. In training mode: the statistics are those of the batch.
    """
    stream: list[Tensor] = []
    blocks = [block for stage in model.stages for block in stage.children()]
    hooks = [blocks[0].register_forward_pre_hook(lambda _, arguments: stream.append(arguments[0]))]
    hooks += [block.register_forward_hook(lambda _, __, output: stream.append(output)) for block in blocks]
    loss = F.cross_entropy(model.train()(inputs), labels.to(inputs.device))
    for hook in hooks:
        hook.remove()
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, [*stream, *parameters])
    flow, own = gradients[: len(stream)], gradients[len(stream) :]
    return {
        "signal": [float(x.detach().double().square().mean()) for x in stream],
        # The loss is a mean over the images: the sum over them is that of one image, times their number.
        "gradient": [float(g.double().square().sum() * len(inputs)) for g in flow],
        "parameters": float(torch.stack([g.double().square().sum() for g in own]).sum().sqrt()),
    }


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By depth and case: signal and gradient by block [seeds, blocks + 1], and training errors by rate [seeds].

    A training that diverged has the error None.
    """
    summary: Numbers = {}
    for layers in DEPTHS:
        summary[f"{layers} layers"] = {name: _summary(name, layers, results) for name in CASES}
    return summary


def _summary(name: str, layers: int, results: Mapping[str, Numbers]) -> Numbers:
    arch, norm = CASES[name]
    fresh = [run for piece, run in results.items() if piece.startswith(f"fresh {name} {layers} layers ")]
    errors: dict[str, list[float | None]] = {}
    start = f"{arch}{layers}{'' if norm == 'batch' else f' norm {norm}'} seed "
    for piece, run in results.items():
        if piece.startswith(start):
            errors.setdefault(piece.rpartition(" ")[2], []).append(run.get("train_error"))
    rounded = functools.partial(_significant, digits=5)
    return {
        "signal": [rounded(run["signal"]) for run in fresh],
        "gradient": [rounded(run["gradient"]) for run in fresh],
        "parameters": rounded([run["parameters"] for run in fresh]),
        "train_error": errors,
    }


def _significant(values: list[float], digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def draw(numbers: Numbers) -> Figure:
    trained = any(case["train_error"] for cases in numbers.values() for case in cases.values())
    rows = 3 if trained else 2
    figure, axes = figures.panels(3, rows=rows, height=3.2 * rows)
    for column, layers in enumerate(DEPTHS):
        for (name, case), (color, style) in zip(numbers[f"{layers} layers"].items(), STYLES, strict=True):
            for row, kind in enumerate(("signal", "gradient")):
                panel = axes[3 * row + column]
                values = np.asarray(case[kind])
                figures.line_with_spread(
                    panel, np.arange(values.shape[1]), values, color=color, label=name, style=style
                )
            if trained:
                _draw_errors(axes[6 + column], case["train_error"], color, style, name)
        axes[column].set(title=f"{layers} layers", xlabel="block", yscale="log", ylabel="mean square of the signal")
        axes[3 + column].set(xlabel="block", yscale="log", ylabel="squared gradient per image")
    axes[0].legend(fontsize=7.5)
    return figure


def _draw_errors(panel: Axes, errors: Mapping[str, list[float | None]], color: str, style: str, name: str) -> None:
    """The error by learning rate; where a seed diverged, a cross at the top, beside the line of the others."""
    panel.set(xlabel="learning rate", ylabel="training error in %", ylim=(0, 103))
    if not errors:
        panel.set_axis_off()
        return
    panel.set_xscale("log")
    rates = [float(rate) for rate in errors]
    finite = [[100 * value for value in values if value is not None] for values in errors.values()]
    drawn = [(rate, values) for rate, values in zip(rates, finite, strict=True) if values]
    places = [rate for rate, _ in drawn]
    panel.plot(places, [np.mean(values) for _, values in drawn], style, marker=".", color=color, label=name)
    lowest, highest = ([ends(values) for _, values in drawn] for ends in (min, max))
    panel.fill_between(places, lowest, highest, color=color, alpha=0.18, linewidth=0)
    lost = [rate for rate, values in zip(rates, errors.values(), strict=True) if None in values]
    panel.plot(lost, [100] * len(lost), "x", color=color)
