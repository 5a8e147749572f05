"""Gradients of deep plain networks are white noise, those of residual networks are not.

Networks with one input and one output; the autocorrelation of d output / d input along the input (Balduzzi et al. 2017,
Figs. 1 and 2; Prince 2024, Fig. 11.3).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from models import palette
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers, StudySettings

NAME = "shattered-gradients"
TITLE = "Autocorrelation of the gradient of the output with respect to the input"
NEEDS_DATA = False


class ShatteredGradientsSettings(StudySettings):
    seeds: PositiveInt = 50
    width: PositiveInt = 200
    points: PositiveInt = 256
    """Inputs, evenly spaced in [-2, 2]."""
    lags: PositiveInt = 40
    """Largest distance in points at which the autocorrelation is kept."""


SETTINGS = ShatteredGradientsSettings
QUICK = {"seeds": 5}

PLAIN = {f"plain, {layers} layers": layers for layers in (2, 4, 10, 24, 50)}
BARE = "plain, 50 layers, not normalised"
RESIDUAL = {"residual, 50 layers": 1.0, "residual, 50 layers, branches x 0.1": 0.1}
"""The scale of the branches: beta in Balduzzi et al. 2017."""
NOISES = ("white noise", "brown noise")
TRACES = ("plain, 2 layers", "plain, 50 layers", "residual, 50 layers")


def split(settings: ShatteredGradientsSettings, data: Path | None) -> list[Piece]:
    names = [*PLAIN, BARE, *RESIDUAL, *NOISES]
    return [
        Piece(name, {"study": NAME, **settings.model_dump()}, functools.partial(_piece, name, settings))
        for name in names
    ]


def _piece(name: str, settings: ShatteredGradientsSettings, _: Path) -> Numbers:
    gradients = np.stack([_gradient(name, settings, seed) for seed in range(settings.seeds)])
    correlations = np.stack([autocorrelation(line, settings.lags) for line in gradients])
    return {
        "distance": 4.0 / (settings.points - 1),
        "mean": np.round(correlations.mean(0), 5).tolist(),
        "standard_error": np.round(correlations.std(0) / np.sqrt(settings.seeds), 5).tolist(),
        "trace": np.round(gradients[0] / gradients[0].std(), 4).tolist(),
    }


def _gradient(name: str, settings: ShatteredGradientsSettings, seed: int) -> NDArray[np.float64]:
    """The gradient at each point, float64 [points]; or noise as long as that."""
    generator = torch.Generator().manual_seed(seed)
    if name in NOISES:
        noise = torch.randn(settings.points, generator=generator, dtype=torch.float64).numpy()
        return noise if name == "white noise" else np.cumsum(noise)
    x = torch.linspace(-2, 2, settings.points, dtype=torch.float64).requires_grad_()
    if name in RESIDUAL:
        output = residual(x, settings.width, 50, RESIDUAL[name], generator)
    else:
        output = plain(x, settings.width, PLAIN.get(name, 50), generator, normalised=name != BARE)
    return torch.autograd.grad(output.sum(), x)[0].numpy()


def plain(x: Tensor, width: int, layers: int, generator: torch.Generator, *, normalised: bool) -> Tensor:
    """A shallow network's hidden layer, then W relu(BN(x)) for each further layer; [points] to [points].

    Without normalisation most units of a deep network are on, or off, for all inputs (Balduzzi et al. 2017, Fig. 3).
    """
    hidden = _first(x, width, generator)
    for _ in range(layers - 2):
        hidden = _linear(hidden, width, generator)
        hidden = (_normalise(hidden) if normalised else hidden).relu()
    return _linear(hidden, 1, generator)[:, 0]


def residual(x: Tensor, width: int, layers: int, beta: float, generator: torch.Generator) -> Tensor:
    """The same hidden layer, then x + beta W relu(BN(x)) for each further layer."""
    hidden = _linear(_first(x, width, generator), width, generator)
    for _ in range(layers - 3):
        hidden = hidden + beta * _linear(_normalise(hidden).relu(), width, generator)
    return _linear(_normalise(hidden).relu(), 1, generator)[:, 0]


def _first(x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Not normalised, because this would remove the biases and put every kink at the mean of the inputs."""
    return _linear(x[:, None], width, generator).relu()


def _linear(x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Weights of variance 2 / fan-in (He et al. 2015), and biases, without which every kink is at zero."""
    scale = (2.0 / x.shape[1]) ** 0.5
    weight = torch.randn(x.shape[1], width, generator=generator, dtype=x.dtype) * scale
    bias = torch.randn(width, generator=generator, dtype=x.dtype) * scale
    return torch.addmm(bias, x, weight)


def _normalise(x: Tensor) -> Tensor:
    """Batch normalisation over the points as it is in inference: its statistics are constants to the gradient."""
    with torch.no_grad():
        mean, std = x.mean(0), x.std(0, correction=0)
    return (x - mean) / (std + 1e-5)


def autocorrelation(values: NDArray[np.float64], lags: int) -> NDArray[np.float64]:
    """Of the values about their mean, at 0, 1, ... `lags`; 1 at 0."""
    centred = values - values.mean()
    products = [centred[: len(centred) - lag] @ centred[lag:] for lag in range(lags + 1)]
    return np.asarray(products, np.float64) / float(products[0])


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By network: mean and standard error of the autocorrelation at each lag; one gradient to look at."""
    return dict(results)


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(3, height=4.4)
    for offset, name in enumerate(reversed(TRACES)):
        trace = np.asarray(numbers[name]["trace"])
        axes[0].plot(np.linspace(-2, 2, len(trace)), trace / 3 + 3 * offset, color=palette.BLUE, linewidth=0.9)
        axes[0].text(-2, 3 * offset + 1.25, name, fontsize=8)
    axes[0].set(title="gradients", xlabel="input", ylabel="d output / d input, each to its own scale", yticks=[])
    axes[0].set_ylim(-1.6, 3 * len(TRACES) - 1)
    shades = (palette.SKY, palette.GREEN, palette.ORANGE, palette.PURPLE, palette.VERMILION)
    for name, color in zip(PLAIN, shades, strict=True):
        _curve(axes[1], numbers, name, color)
    for name, color in zip(RESIDUAL, (palette.BLUE, palette.GREEN), strict=True):
        _curve(axes[2], numbers, name, color)
    _curve(axes[2], numbers, "plain, 50 layers", palette.VERMILION)
    _curve(axes[1], numbers, BARE, palette.VERMILION, "-.")
    for panel, title in ((axes[1], "plain"), (axes[2], "residual")):
        _curve(panel, numbers, "brown noise", "black", "--")
        _curve(panel, numbers, "white noise", palette.GREY, ":")
        panel.set(title=title, xlabel="distance between inputs", ylabel="autocorrelation", ylim=(-0.25, 1.05))
        panel.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def _curve(panel: Axes, numbers: Numbers, name: str, color: str, style: str = "-") -> None:
    mean, error = (np.asarray(numbers[name][key]) for key in ("mean", "standard_error"))
    distance = np.arange(len(mean)) * numbers[name]["distance"]
    panel.plot(distance, mean, style, color=color, label=name)
    panel.fill_between(distance, mean - 2 * error, mean + 2 * error, color=color, alpha=0.18, linewidth=0)
