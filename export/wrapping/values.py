"""Meaning of the outputs of a graph, by their values for real images: logits, probabilities or neither."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ForeignWeights
from export.wrapping.head import Head
from models.artifact.parity import Float32Array

_TOLERANCE = 0.01
"""Relative difference of the sums of probabilities in half precision."""
SMALLEST = 1e-30
"""Smallest probability whose logarithm is taken."""
_MAX_ERROR = 0.02
"""Largest difference of a probability from that of the original graph, which may be rounded to 8 bits."""
_LINEAR = {
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "Mul",
    "ReduceMean",
}
"""Types of nodes that give logits."""

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class OriginalValues:
    """Values that the original graph gives for n images."""

    output: Float32Array
    """Its output, float32 [n, classes]."""
    logits: Float32Array
    """The tensor that `Head.logits` names, float32 [n, classes]."""


def find_meaning(path: Path, head: Head, values: OriginalValues) -> tuple[Head, Float32Array]:
    """The head, and the logits that a version gives: logarithms of the probabilities if no softmax was found.

    Raises:
        ForeignWeights: the values are those of no classifier with one class per image.
    """
    if values.output.shape[1] < 2:
        raise ForeignWeights(
            f"{path}: gives one value per image, not one per class: export it with an output per class"
        )
    if head.softmax:
        return head, values.logits
    if probabilities_of(values.output) is not None and values.output.min() >= 0:
        return replace(
            head, logits=head.output, is_probability=True, embedding=None, feature_map=None, classifier=None
        ), (logarithm(values.output))
    inside = values.output.min() >= 0 and values.output.max() <= 1
    if inside and head.last not in _LINEAR:
        raise ForeignWeights(
            f"{path}: all values of {head.output} are between 0 and 1 and do not add up to 1, as of a sigmoid: only "
            "networks with one class per image, which end in logits or a softmax, are supported"
        )
    return head, values.logits


def logits_of(head: Head, values: OriginalValues) -> Float32Array:
    """The logits that a version with this head gives."""
    return logarithm(values.output) if head.is_probability else values.logits


def logarithm(probabilities: Float32Array) -> Float32Array:
    """Logits of probabilities; as in the graph that `wrap` writes."""
    return np.log(np.maximum(probabilities, SMALLEST)).astype(np.float32)


def probabilities_of(output: Float32Array) -> Float64Array | None:
    """Probabilities [n, classes] of an output that has them, their multiples or their logarithms; None for others."""
    values = output.astype(np.float64)
    if (values <= _TOLERANCE).all():
        values = np.exp(values)
        return values if np.allclose(values.sum(1), 1, rtol=_TOLERANCE) else None
    sums = values.sum(1, keepdims=True)
    same = (values >= 0).all() and sums.min() > 0 and np.allclose(sums, sums.mean(), rtol=_TOLERANCE)
    return np.asarray(values / sums) if same else None


def check_probabilities(path: Path, found: Float32Array, values: OriginalValues) -> None:
    """Check that a version gives the probabilities of the original graph, if it has some.

    Raises:
        ForeignWeights: it gives others.
    """
    expected = probabilities_of(values.output)
    error = 0.0 if expected is None else float(np.abs(found - expected).max())
    if error > _MAX_ERROR:
        raise ForeignWeights(
            f"{path}: its probabilities are not the softmax of its logits (they differ by {error:.2g}): export it with "
            "logits as its output"
        )
