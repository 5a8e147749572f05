"""The best classes of each image."""

from __future__ import annotations

from collections.abc import Sequence

from models.artifact.parity import Float32Array
from service.inference.results import Prediction


def top_k(probabilities: Float32Array, labels: Sequence[str], k: int) -> list[list[Prediction]]:
    """The `k` likeliest classes of each row of [n, classes], best first; all of them where there are fewer.

    Equal probabilities are given in the order of the classes.
    """
    best = (-probabilities).argsort(axis=1, kind="stable")[:, :k]
    return [
        [Prediction(label=labels[index], index=index, probability=probabilities.item(row, index)) for index in indices]
        for row, indices in enumerate(best.tolist())
    ]
