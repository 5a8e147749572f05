"""Shattered gradients: d output / d input of networks with one input and one output, and its autocorrelation.

The networks are those of `models.studies.shattered_gradients`, with settings: a network of n layers draws the weights
and then the biases of each layer, from the input to the output.
"""

from __future__ import annotations

import numpy as np

from models.studies.live.curves import Charts, band, line
from models.studies.live.generator import RandomTensors
from models.studies.live.layers import GAINS, Array
from models.studies.shattered_gradients import autocorrelation

POINTS, LAGS = 256, 40
NETWORKS = ("plain", "residual")
NOISES = ("white noise", "brown noise")
_CONSTANT = 1e-8
"""Relative deviation under which a gradient is constant: differences are then rounding errors."""

_Dual = tuple[Array, Array]
"""Values [points, units] and their derivatives with respect to the input."""


def compute(*, layers: int, width: int, init: str, beta: float, normalised: bool, seeds: int, first: int) -> Charts:
    """The gradient of the first network of each kind, and the autocorrelation over all of them.

    Args:
        layers: layers with weights, at least 4.
        width: units of a hidden layer.
        init: a key of `GAINS`.
        beta: factor of the residual branches.
        normalised: whether hidden layers but the first are batch-normalised.
        seeds: networks of each kind.
        first: the first seed; the others follow it.
    """
    x = np.linspace(-2, 2, POINTS)
    lags = np.arange(LAGS + 1) * (4 / (POINTS - 1))
    charts: Charts = {"gradient": {}, "autocorrelation": {}}
    for name in (*NETWORKS, *NOISES):
        rows = []
        for seed in range(first, first + seeds):
            draws = RandomTensors(seed)
            if name in NOISES:
                gradient = draws.normal(POINTS)
                gradient = gradient if name == "white noise" else np.cumsum(gradient)
            else:
                gradient = gradient_of(name == "residual", x, layers, width, GAINS[init], beta, normalised, draws)
            if seed == first and name in NETWORKS:
                charts["gradient"][name] = line(x, gradient / _scale(gradient))
            if not _constant(gradient):
                rows.append(autocorrelation(gradient, LAGS))
        charts["autocorrelation"][name] = band(lags, rows, "error")
    return charts


def gradient_of(
    residual: bool, x: Array, layers: int, width: int, gain: float, beta: float, normalised: bool, draws: RandomTensors
) -> Array:
    """d output / d input at each point."""

    def linear(dual: _Dual, units: int) -> _Dual:
        inputs = dual[0].shape[1]
        scale = np.sqrt(gain / inputs)
        weight = draws.normal(inputs, units) * scale
        return dual[0] @ weight + draws.normal(units) * scale, dual[1] @ weight

    def activate(dual: _Dual) -> _Dual:
        return _relu(_standardise(dual) if normalised else dual)

    hidden = _relu(linear((x[:, None], np.ones((len(x), 1))), width))
    if residual:
        hidden = linear(hidden, width)
        for _ in range(layers - 3):
            branch = linear(activate(hidden), width)
            hidden = hidden[0] + beta * branch[0], hidden[1] + beta * branch[1]
        hidden = activate(hidden)
    else:
        for _ in range(layers - 2):
            hidden = activate(linear(hidden, width))
    return linear(hidden, 1)[1][:, 0]


def _relu(dual: _Dual) -> _Dual:
    positive = dual[0] > 0
    return dual[0] * positive, dual[1] * positive


def _standardise(dual: _Dual) -> _Dual:
    """Batch normalisation as it is in inference: its statistics are constants to the gradient."""
    deviation = dual[0].std(0) + 1e-5
    return (dual[0] - dual[0].mean(0)) / deviation, dual[1] / deviation


def _constant(gradient: Array) -> bool:
    return bool(gradient.std() <= _CONSTANT * np.sqrt((gradient**2).mean()))


def _scale(gradient: Array) -> float:
    """The standard deviation; the size of a constant gradient, or 1 if it is 0."""
    return float(np.sqrt((gradient**2).mean()) or 1.0) if _constant(gradient) else float(gradient.std())
