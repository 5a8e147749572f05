"""A network with one input and one output, and the gradient of its early weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from models.studies.live.generator import RandomTensors
from models.studies.live.layers import Array, Normalised, normalise, relu

EARLY = 3
"""Layers whose weights have a gradient."""


class Network:
    """Fully connected layers with He's initialisation; the first hidden layer is not normalised."""

    def __init__(
        self, residual: bool, layers: int, width: int, beta: float, normalised: bool, draws: RandomTensors
    ) -> None:
        self._residual, self._beta, self._normalised = residual, beta, normalised
        self.weights: list[Array] = []
        """One matrix [inputs, units] per layer."""
        self._biases: list[Array] = []
        sizes = [1, *[width] * (layers - 1), 1]
        for inputs, units in itertools.pairwise(sizes):
            scale = np.sqrt(2 / inputs)
            self.weights.append(draws.normal(inputs, units) * scale)
            self._biases.append(draws.normal(units) * scale)

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, list[Normalised]]:
        """The output [N] for inputs [N] with these weights, and the values before the ReLU of each layer."""
        first = normalise(x[:, None] @ weights[0] + self._biases[0], False)
        record = [Normalised(x[:, None], None), first]
        hidden = relu(first.values)
        last = len(weights) - 1
        # A residual network adds its branches to the output of its second layer.
        stream = hidden @ weights[1] + self._biases[1]
        for layer in range(2, last + 1):
            record.append(normalise(stream, self._normalised))
            branch = relu(record[-1].values) @ weights[layer] + self._biases[layer]
            stream = stream + self._beta * branch if self._residual and layer < last else branch
        return stream[:, 0], record

    def backward(self, gradient: Array, record: Sequence[Normalised]) -> list[Array]:
        """The gradients of the first `EARLY` weights, from that of the output [N]."""
        last = len(self.weights) - 1
        gradients: list[Array] = [np.empty(0)] * EARLY
        stream = gradient[:, None]
        for layer in range(last, 0, -1):
            inputs = record[layer]
            skips = self._residual and 2 <= layer < last
            branch = self._beta * stream if skips else stream
            if layer < EARLY:
                gradients[layer] = relu(inputs.values).T @ branch
            through = inputs.backward((branch @ self.weights[layer].T) * (inputs.values > 0))
            stream = stream + through if skips else through
        gradients[0] = record[0].values.T @ stream
        return gradients
