"""Figures of a classifier, from its probabilities. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact.parity import Float32Array

BINS = 15
"""Bins of confidence, as in Guo et al. 2017."""
SMALLEST = 1e-30
"""Smallest probability whose logarithm is taken."""

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """Probabilities and true classes of n images. A figure whose denominator is zero is 0."""

    classes: tuple[str, ...]
    labels: Int64Array
    """True classes, int64 [n], n >= 1."""
    probabilities: Float32Array
    """float32 [n, classes], rows sum to 1."""
    k: int = 5

    @cached_property
    def predicted(self) -> Int64Array:
        """The first class of each image, int64 [n]."""
        return np.asarray(self.probabilities.argmax(1), np.int64)

    @cached_property
    def confidence(self) -> Float64Array:
        """Probability of the first class, float64 [n]."""
        return np.asarray(self.probabilities.max(1), np.float64)

    @cached_property
    def confusion(self) -> Int64Array:
        """Number of images by [true class, predicted class]."""
        count = len(self.classes)
        return np.bincount(self.labels * count + self.predicted, minlength=count**2).reshape(count, count)

    @property
    def top1(self) -> float:
        return float((self.predicted == self.labels).mean())

    @property
    def top_k(self) -> float:
        """Share of images whose true class is among the first k. Of equal probabilities the first class counts."""
        true = self._true[:, None]
        before = (self.probabilities > true).sum(1)
        equal = (self.probabilities == true) & (np.arange(len(self.classes)) < self.labels[:, None])
        return float((before + equal.sum(1) < self.k).mean())

    @property
    def negative_log_likelihood(self) -> float:
        """Mean of -log p(true class), in nats (Guo et al. 2017, equation 2)."""
        return float(-np.log(np.maximum(self._true.astype(np.float64), SMALLEST)).mean())

    @property
    def brier_score(self) -> float:
        """Mean over images of sum over classes of (p - [true class])^2, from 0 to 2 (Brier 1950, equation 2)."""
        squares = np.einsum("nc,nc->n", self.probabilities, self.probabilities, dtype=np.float64)
        return float((squares - 2 * self._true.astype(np.float64) + 1).mean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over `BINS` equal bins of confidence (Guo et al. 2017, equation 3)."""
        return float(sum(part["images"] * abs(part["accuracy"] - part["confidence"]) for part in self.bins)) / len(
            self.labels
        )

    @cached_property
    def bins(self) -> list[dict[str, Any]]:
        """Images, mean confidence and accuracy of each bin of confidence: the reliability diagram."""
        places = np.minimum((self.confidence * BINS).astype(np.int64), BINS - 1)
        counts = np.bincount(places, minlength=BINS)
        sums = [np.bincount(places, values, BINS) for values in (self.confidence, self.predicted == self.labels)]
        confidence, accuracy = (_share(total, counts) for total in sums)
        return [
            {
                "from": index / BINS,
                "to": (index + 1) / BINS,
                "images": int(counts[index]),
                "confidence": float(confidence[index]),
                "accuracy": float(accuracy[index]),
            }
            for index in range(BINS)
        ]

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """Precision, recall, F1 and support of each class (van Rijsbergen 1979, chapter 7)."""
        right = np.diag(self.confusion)
        support, predictions = self.confusion.sum(1), self.confusion.sum(0)
        figures = (_share(right, predictions), _share(right, support), _share(2 * right, support + predictions))
        return [
            {
                "label": label,
                "support": int(support[index]),
                "precision": float(figures[0][index]),
                "recall": float(figures[1][index]),
                "f1": float(figures[2][index]),
            }
            for index, label in enumerate(self.classes)
        ]

    @cached_property
    def mistakes(self) -> Int64Array:
        """Indices of misclassified images, the most confident mistake first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    @property
    def _true(self) -> Float32Array:
        return self.probabilities[np.arange(len(self.labels)), self.labels]

    def figures(self) -> dict[str, Any]:
        """All figures as values of JSON."""
        return {
            "images": len(self.labels),
            "top1": self.top1,
            f"top{self.k}": self.top_k,
            "calibration_error": self.calibration_error,
            "negative_log_likelihood": self.negative_log_likelihood,
            "brier_score": self.brier_score,
            "reliability": self.bins,
            "classes": self.per_class,
            "confusion": self.confusion.tolist(),
        }


def _share(part: NDArray[Any], whole: NDArray[Any]) -> Float64Array:
    return np.asarray(part / np.maximum(whole, 1), np.float64)
