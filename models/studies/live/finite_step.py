"""Finite steps: the loss along one step of the early layers, and what the gradient predicts of it.

A network with one input and one output approximates sin(pi x) at points of [-2, 2]; its layers are those of
`models.studies.live.shattered_gradients`, with batch normalisation in training mode. The weights of the first three
layers take the step, as in `models.studies.finite_step`.
"""

from __future__ import annotations

import numpy as np

from models.studies.live.curves import Charts, band, line
from models.studies.live.generator import RandomTensors
from models.studies.live.layers import Array
from models.studies.live.network import EARLY, Network

POINTS, LENGTHS, SLICE = 64, 13, 48
"""Inputs of the networks, lengths of the step, and intervals of the loss along it."""
_SMALLEST = 0.1
"""Predicted decrease per unit of length, relative to the loss, under which the shortest steps show rounding errors."""


def compute(
    *, layers: int, width: int, beta: float, normalised: bool, longest: float, seeds: int, first: int
) -> Charts:
    """Actual / predicted change by the length of the step, and the loss along the step of the first networks.

    Args:
        layers: layers with weights, at least 4.
        width: units of a hidden layer.
        beta: factor of the residual branches.
        normalised: whether hidden layers but the first are batch-normalised.
        longest: logarithm (base 10) of the step up to which the loss is drawn, relative to the parameters' length.
        seeds: networks of each kind.
        first: the first seed; the others follow it.
    """
    lengths = np.asarray([10 ** (-7 + 6 * index / (LENGTHS - 1)) for index in range(LENGTHS)])
    along = np.arange(SLICE + 1) / SLICE * 10**longest
    charts: Charts = {"decrease": {}, "loss": {}}
    for name in ("plain", "residual"):
        rows = []
        for seed in range(first, first + seeds):
            step = Step(Network(name == "residual", layers, width, beta, normalised, RandomTensors(seed)))
            if seed == first:
                losses = np.asarray([step.loss(length) for length in along])
                curve = line(along, losses / step.before)
                charts["loss"][name] = {**curve, "theory": 1 - along * step.slope / step.before}
            if step.slope >= _SMALLEST * step.before:
                rows.append(np.asarray([(step.before - step.loss(s)) / (s * step.slope) for s in lengths]))
        charts["decrease"][name] = band(lengths, rows, "quartiles")
    return charts


class Step:
    """A step of the early weights of a network down their gradient."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._x = np.linspace(-2, 2, POINTS)
        self._target = np.sin(np.pi * self._x)
        output, record = network.forward(self._x, network.weights)
        gradients = network.backward((output - self._target) / POINTS, record)
        self.before = self._mean_square(output)
        """Loss without a step: half the mean squared error."""
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
        length = np.sqrt(sum((weight**2).sum() for weight in network.weights[:EARLY]))
        self.slope = float(norm * length)
        """Predicted decrease per unit of the step's relative length; 0 if no unit is active."""
        self._directions = [-gradient * (length / norm if norm > 0 else 0.0) for gradient in gradients]

    def loss(self, length: float) -> float:
        """The loss after a step of this length, relative to the length of the early weights."""
        early = [
            weight + length * direction
            for weight, direction in zip(self._network.weights[:EARLY], self._directions, strict=True)
        ]
        output, _ = self._network.forward(self._x, [*early, *self._network.weights[EARLY:]])
        return self._mean_square(output)

    def _mean_square(self, output: Array) -> float:
        return float(((output - self._target) ** 2).mean() / 2)
