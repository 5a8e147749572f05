"""Why notebook 11.1 of Prince 2024 does not find the curves of Balduzzi et al. 2017, one change at a time.

The notebook: K hidden layers of 200 rectified units, one input, one output; every weight and every bias, those of the
first layer too, is normal with variance 1 / 200 from NumPy's legacy generator with seed 1; the gradient of the output
is computed at 256 inputs, -2 + i / 64, and its autocorrelation is the sum of products of the gradient with itself
shifted, divided by that at shift 0. The mean of the gradient is not subtracted.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import PositiveInt

from models import palette
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers, StudySettings

NAME = "why-11-1-failed"
TITLE = "The gradients of Prince's notebook 11.1, with one change at a time"
NEEDS_DATA = False

Floats = NDArray[np.float64]

POINTS = 256


class Why111FailedSettings(StudySettings):
    seeds: PositiveInt = 30
    """Networks per curve; the first is the notebook's, with seed 1."""
    width: PositiveInt = 200
    lags: PositiveInt = 64
    """Largest distance in points at which the autocorrelation is kept."""


SETTINGS = Why111FailedSettings
QUICK = {"seeds": 3}


@dataclass(frozen=True)
class Setting:
    """A network of the notebook; each field but the depth is one change."""

    hidden_layers: int = 50
    gain: float = 1.0
    """Variance of weights and biases times the width; 2 is He's initialisation."""
    first_gain: float | None = None
    """The same of the first layer, if it differs: the width is the variance that its single input needs."""
    later_biases: bool = True
    """Biases in all layers after the first."""
    reach: float = 2.0
    """Largest input."""
    centred: bool = False
    """Subtract from the input of every ReLU after the first layer its mean over the inputs, unit by unit."""
    scaled: bool = False
    """Divide it by its standard deviation, too: batch normalisation."""


NOTEBOOK = "the notebook, 50 layers"
ANSWER = "mean-centred, 50 layers"
SETTINGS_BY_NAME = {
    "the notebook, 1 layer": Setting(1),
    "the notebook, 24 layers": Setting(24),
    NOTEBOOK: Setting(),
    "mean-centred, 24 layers": Setting(24, centred=True),
    ANSWER: Setting(centred=True),
    "batch normalisation": Setting(centred=True, scaled=True),
    "He's initialisation": Setting(gain=2.0),
    "variance 1 in the first layer": Setting(first_gain=200.0),
    "biases in the first layer only": Setting(later_biases=False),
    "inputs from -20 to 20": Setting(reach=20.0),
    "He's initialisation, by the inputs of each layer": Setting(gain=2.0, first_gain=400.0),
}
"""All from `batch normalisation` on have 50 layers. The last one has two changes, and is the network without
normalisation of `shattered_gradients`; the others have at most one."""
NOISES = ("white noise", "brown noise")


def split(settings: Why111FailedSettings, data: Path | None) -> list[Piece]:
    return [
        Piece(name, {"study": NAME, **settings.model_dump()}, functools.partial(_piece, name, settings))
        for name in (*SETTINGS_BY_NAME, *NOISES)
    ]


def _piece(name: str, settings: Why111FailedSettings, _: Path) -> Numbers:
    seeds = range(1, settings.seeds + 1)
    if name in NOISES:
        white = np.stack([np.random.RandomState(seed).normal(size=POINTS) for seed in seeds])
        gradients = white if name == "white noise" else white.cumsum(1)
        return _correlations(gradients, settings)
    networks = [measure(SETTINGS_BY_NAME[name], settings.width, seed) for seed in seeds]
    gradients = np.stack([gradient for gradient, _ in networks])
    return {
        **_correlations(gradients, settings),
        "trace": _rounded(gradients[0] / np.abs(gradients[0]).max()),
        "largest_gradient": float(f"{np.abs(gradients[0]).max():.4g}"),
        "switching": _rounded(np.stack([switching for _, switching in networks]).mean(0)),
    }


def _correlations(gradients: Floats, settings: Why111FailedSettings) -> Numbers:
    """The notebook's autocorrelation of gradients [seeds, points], and that about the mean."""
    raw = np.stack([autocorrelation(line, settings.lags) for line in gradients])
    about_mean = np.stack([autocorrelation(line - line.mean(), settings.lags) for line in gradients])
    return {
        "first_seed": _rounded(raw[0]),
        "mean": _rounded(raw.mean(0)),
        "standard_error": _rounded(raw.std(0) / np.sqrt(len(raw))),
        "about_mean": _rounded(about_mean.mean(0)),
    }


def autocorrelation(values: Floats, lags: int) -> Floats:
    """Of the values as they are, at 0, 1, ... `lags`; 1 at 0. Values that are all zero have none: 0 everywhere."""
    products = np.asarray([values[: len(values) - lag] @ values[lag:] for lag in range(lags + 1)])
    return products / products[0] if products[0] > 0 else products


def measure(setting: Setting, width: int, seed: int, points: int = POINTS) -> tuple[Floats, Floats]:
    """The gradient at each input, float64 [points], and the share of switching units by hidden layer, float64 [layers].

    A unit switches if it is on for some inputs and off for others. The means and deviations of the inputs are constants
    to the gradient, as they are in inference.
    """
    weights, biases = _parameters(setting, width, seed)
    hidden = -setting.reach + 2 * setting.reach / points * np.arange(points)[None]
    gates, scales = [], []
    for layer in range(setting.hidden_layers):
        inputs = weights[layer] @ hidden
        if layer == 0 or setting.later_biases:
            inputs = inputs + biases[layer]
        scale = np.ones((len(inputs), 1))
        # Not in the first layer: its single input would put every kink at the same place.
        if layer > 0 and setting.centred:
            inputs = inputs - inputs.mean(1, keepdims=True)
        if layer > 0 and setting.scaled:
            scale = 1 / (inputs.std(1, keepdims=True) + 1e-12)
        gates.append(inputs >= 0)
        scales.append(scale)
        hidden = np.maximum(inputs * scale, 0)
    gradient = np.repeat(weights[-1].T, points, axis=1)
    for weight, gate, scale in zip(weights[-2::-1], gates[::-1], scales[::-1], strict=True):
        gradient = weight.T @ (gate * scale * gradient)
    return gradient[0], np.asarray([(gate.any(1) & ~gate.all(1)).mean() for gate in gates])


def _parameters(setting: Setting, width: int, seed: int) -> tuple[list[Floats], list[Floats]]:
    """Weights [out, in] and biases [out, 1] of each layer, drawn in the order of the notebook: first, last, others."""
    random = np.random.RandomState(seed)
    depth = setting.hidden_layers
    sizes = [1, *[width] * depth, 1]

    def draw(rows: int, columns: int, gain: float) -> Floats:
        return np.asarray(random.normal(size=(rows, columns)) * np.sqrt(gain / width))

    first_gain = setting.gain if setting.first_gain is None else setting.first_gain
    weights: dict[int, Floats] = {0: draw(width, 1, first_gain), depth: draw(1, width, setting.gain)}
    biases: dict[int, Floats] = {0: draw(width, 1, first_gain), depth: draw(1, 1, setting.gain)}
    for layer in range(1, depth):
        weights[layer] = draw(sizes[layer + 1], sizes[layer], setting.gain)
        biases[layer] = draw(sizes[layer + 1], 1, setting.gain)
    return [weights[layer] for layer in range(depth + 1)], [biases[layer] for layer in range(depth + 1)]


def _rounded(values: Floats) -> list[float]:
    return [float(value) for value in np.round(values, 5)]


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By network or noise: its autocorrelations, one gradient to look at, and the share of switching units by layer."""
    return dict(results)


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(3, height=4.6)
    traces = {"the notebook, 1 layer": palette.BLUE, NOTEBOOK: palette.VERMILION, ANSWER: palette.GREEN}
    for offset, (name, color) in enumerate(reversed(traces.items())):
        trace = np.asarray(numbers[name]["trace"])
        axes[0].plot(np.linspace(-2, 2, len(trace)), trace + 2.6 * offset, color=color, linewidth=0.9)
        axes[0].text(-2, 2.6 * offset + 1.1, f"{name}: up to {numbers[name]['largest_gradient']:.2g}", fontsize=8)
    axes[0].set(title="gradients, seed 1", xlabel="input", ylabel="d output / d input, own scales", yticks=[])
    axes[0].set_ylim(-1.4, 2.6 * len(traces) - 0.9)
    for layers, style in ((24, "--"), (50, "-")):
        _curve(axes[1], numbers, f"the notebook, {layers} layers", palette.VERMILION, style)
        _curve(axes[1], numbers, f"mean-centred, {layers} layers", palette.GREEN, style)
    _curve(axes[1], numbers, "the notebook, 1 layer", palette.BLUE)
    _curve(axes[1], numbers, "brown noise", "black", "--")
    _curve(axes[1], numbers, "white noise", palette.GREY, ":")
    axes[1].set(title="the notebook, and one change", xlabel="distance between inputs", ylabel="autocorrelation")
    for name, color in ((NOTEBOOK, palette.VERMILION), (ANSWER, palette.GREEN)):
        shares = 100 * np.asarray(numbers[name]["switching"])
        axes[2].plot(np.arange(1, len(shares) + 1), shares, color=color, label=name)
    axes[2].set(title="why", xlabel="hidden layer", ylabel="units on for some inputs only, in %", ylim=(0, 103))
    for panel in axes[1:]:
        panel.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _curve(panel: Axes, numbers: Numbers, name: str, color: str, style: str = "-") -> None:
    mean, error = (np.asarray(numbers[name][key]) for key in ("mean", "standard_error"))
    distance = np.arange(len(mean)) * 4 / POINTS
    panel.plot(distance, mean, style, color=color, label=name)
    panel.fill_between(distance, mean - 2 * error, mean + 2 * error, color=color, alpha=0.18, linewidth=0)
