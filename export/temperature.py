"""Calibrated probabilities by one temperature for all logits (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.artifact.parity import Float32Array

Labels = NDArray[np.int64]

_SMALLEST, _LARGEST = 0.05, 20.0
_BINS = 15


def fit_temperature(logits: Float32Array, labels: Labels) -> float:
    """The temperature with the highest likelihood of the true classes: softmax(logits / temperature).

    Args:
        logits: float32 [n, classes] of images that the network was not trained on.
        labels: int64 [n].
    """
    values = logits.astype(np.float64)
    # The likelihood is concave in 1 / temperature, so its derivative has at most one zero.
    low, high = 1 / _LARGEST, 1 / _SMALLEST
    true = values[np.arange(len(labels)), labels]
    for _ in range(60):
        inverse = (low + high) / 2
        slope = float(np.mean(true - (_softmax(values * inverse) * values).sum(1)))
        low, high = (inverse, high) if slope > 0 else (low, inverse)
    return float(2 / (low + high))


def calibration_error(probabilities: Float32Array, labels: Labels) -> float:
    """Expected calibration error: difference of confidence and accuracy, averaged over 15 bins of confidence.

    Args:
        probabilities: float32 [n, classes].
        labels: int64 [n].
    """
    confidence = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == labels
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gap = np.bincount(bins, confidence, _BINS) - np.bincount(bins, correct, _BINS)
    return float(np.abs(gap).sum() / len(labels))


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True))
