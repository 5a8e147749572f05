"""The most probable classes of each image."""

from __future__ import annotations

from collections.abc import Sequence

from models.artifact.parity import Float32Array
from service.core.threads import run_python
from service.inference.results import Prediction

_MAX_ON_EVENT_LOOP = 1024
"""Most predictions that are selected on the event loop, in about 1 ms."""


async def select_top_k(probabilities: Float32Array, labels: Sequence[str], k: int) -> list[list[Prediction]]:
    """As `top_k`; many predictions are selected in a thread."""
    if len(probabilities) * min(k, len(labels)) > _MAX_ON_EVENT_LOOP:
        return await run_python(top_k, probabilities, labels, k)
    return top_k(probabilities, labels, k)


def top_k(probabilities: Float32Array, labels: Sequence[str], k: int) -> list[list[Prediction]]:
    """Select the most probable classes of each image.

    Args:
        probabilities: float32 [n, classes].
        labels: names of the classes.
        k: number of classes per image; with fewer classes, all are returned.

    Returns:
        predictions per image, the most probable first; classes with equal probabilities in their order.
    """
    best = (-probabilities).argsort(axis=1, kind="stable")[:, :k]
    return [
        [Prediction(label=labels[index], index=index, probability=probabilities.item(row, index)) for index in indices]
        for row, indices in enumerate(best.tolist())
    ]
