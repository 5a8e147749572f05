"""Requests for a batch queue, and what is in its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.batch_queue import Batch, BatchQueue, QueuedRequest

LOGITS = frozenset({"logits"})
IMAGE = np.zeros((1, 1, 1), np.uint8)


def ticket(
    images: int,
    owner: object = None,
    *,
    outputs: frozenset[str] = LOGITS,
    deadline: float = float("inf"),
    queued_at: float = 100.0,
) -> QueuedRequest:
    return QueuedRequest([IMAGE] * images, outputs, deadline, owner, queued_at)


def contents(batches: Sequence[Batch]) -> list[tuple[Any, int]]:
    """(owner, number of the image) of every image, in the order in which they are computed."""
    return [
        (part.request.owner, image)
        for batch in batches
        for part in batch.slices
        for image in range(part.start, part.stop)
    ]


def take_all(queue: BatchQueue) -> list[Batch]:
    """Batches of a closed queue until there is none."""
    return list(iter(queue.take, None))
