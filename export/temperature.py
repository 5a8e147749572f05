"""Calibrated probabilities by one temperature for all logits (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.artifact.manifest import TemperatureFit
from models.artifact.parity import Float32Array

Labels = NDArray[np.int64]

MIN_ERRORS = 10
"""Misclassified images without which the temperature is at least 1. If a network classifies all images correctly, the
likelihood rises without end as the temperature falls; a few errors hardly stop it."""

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
        slope = float(np.mean(true - (softmax(values * inverse) * values).sum(1)))
        low, high = (inverse, high) if slope > 0 else (low, inverse)
    return float(2 / (low + high))


def choose_temperature(logits: Float32Array, labels: Labels | None, source: str) -> tuple[float, TemperatureFit | None]:
    """The likeliest temperature, but at least 1 if fewer than `MIN_ERRORS` images are misclassified; 1 without labels.

    Args:
        logits: float32 [n, classes] of images that the network was not trained on.
        labels: int64 [n]; None if they are not known.
        source: kind of images, for the report.
    """
    if labels is None:
        return 1.0, None
    likeliest = fit_temperature(logits, labels)
    errors = int((logits.argmax(1) != labels).sum())
    fit = TemperatureFit(source=source, images=len(labels), errors=errors, likeliest=likeliest)
    return likeliest if errors >= MIN_ERRORS else max(1.0, likeliest), fit


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


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The softmax of each row, float64 [n, classes]."""
    exponentials = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True))
