"""Signal growth: mean squares of activations and gradients by block, beside theory.

The networks are those of `models.studies.signal_growth`: one draws the inputs, then the weights of each layer, and last
the gradient of the output.
"""

from __future__ import annotations

import numpy as np

from models.studies.live.curves import Charts, band
from models.studies.live.generator import RandomTensors
from models.studies.live.layers import GAINS, Array, Normalised, normalise, relu
from models.studies.signal_growth import theory

IMAGES = 128
_NAMES = {"he": "He", "naive": "naive"}
"""Initialisations by their names in the study."""


def compute(*, blocks: int, width: int, init: str, normalised: bool, seeds: int, first: int) -> Charts:
    """Mean squares after 0, 1, ... `blocks` blocks, of plain and residual networks; bands are ranges over the seeds."""
    charts: Charts = {"activations": {}, "gradients": {}}
    for name in ("plain", "residual"):
        rows = [
            measure(name == "residual", blocks, width, GAINS[init], normalised, RandomTensors(seed))
            for seed in range(first, first + seeds)
        ]
        expected = theory(name == "residual", _NAMES[init], normalised, blocks)
        for index, (chart, key) in enumerate((("activations", "signal"), ("gradients", "gradient"))):
            curve = band(np.arange(blocks + 1), [row[index] for row in rows], "range")
            charts[chart][name] = {**curve, "theory": np.asarray(expected[key], np.float64)}
    return charts


def measure(
    residual: bool, blocks: int, width: int, gain: float, normalised: bool, draws: RandomTensors
) -> tuple[Array, Array]:
    """Mean squares of the activations, and of the gradient of a random projection of the last."""
    scale = np.sqrt(gain / width)
    stream = draws.normal(IMAGES, width)
    squares = [(stream**2).mean()]
    layers: list[tuple[Normalised, Array]] = []
    for _ in range(blocks):
        branch = stream
        for _ in range(2):
            layers.append((normalise(branch, normalised), draws.normal(width, width) * scale))
            branch = relu(layers[-1][0].values) @ layers[-1][1]
        stream = stream + branch if residual else branch
        squares.append((stream**2).mean())
    gradient = draws.normal(IMAGES, width)
    gradients = [(gradient**2).mean()]
    for block in reversed(range(blocks)):
        through = gradient
        for before, weight in reversed(layers[2 * block : 2 * block + 2]):
            through = before.backward((through @ weight.T) * (before.values > 0))
        gradient = gradient + through if residual else through
        gradients.append((gradient**2).mean())
    return np.asarray(squares), np.asarray(gradients[::-1])
