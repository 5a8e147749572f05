"""Layers without learned scale: batch normalisation, its gradient, and the inputs of a weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GAINS = {"he": 2.0, "naive": 1.0}
"""Variance of a weight, times the number of its layer's inputs: He et al. 2015, and without regard to the ReLU."""
_EPSILON = 1e-5


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


@dataclass(frozen=True)
class Normalised:
    """The output [N, units] of a batch normalisation in training mode, or of none."""

    values: Array
    inverse: Array | None
    """1 / standard deviation [units]; None without normalisation."""

    def backward(self, gradient: Array) -> Array:
        """The gradient of the input from that of the output; the statistics depend on the input (Ioffe 2015)."""
        if self.inverse is None:
            return gradient
        along = (gradient * self.values).mean(0)
        return np.asarray(self.inverse * (gradient - gradient.mean(0) - self.values * along))


def normalise(x: Array, normalised: bool) -> Normalised:
    """Normalise each unit over the batch, or, without normalisation, leave the input as it is."""
    if not normalised:
        return Normalised(x, None)
    inverse = 1 / np.sqrt(x.var(0) + _EPSILON)
    return Normalised((x - x.mean(0)) * inverse, inverse)
