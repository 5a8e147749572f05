"""The choice of the best epoch by its validation error, from the figures of the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

History = Sequence[dict[str, Any]]


def best_epoch(history: History) -> int:
    """The epoch, counted from 1, with the lowest validation error, and of equals the last; without one, the last."""
    return int(min(reversed(history), key=lambda figures: figures.get("validation_error", 0.0))["epoch"])


def is_best(history: History) -> bool:
    """Whether the last epoch is the best so far."""
    return bool(best_epoch(history) == history[-1]["epoch"])


def stops_early(history: History, epochs: int) -> bool:
    """Whether none of the last `epochs` epochs had a lower validation error than those before; 0 never stops."""
    if epochs == 0 or len(history) <= epochs:
        return False
    errors = [figures["validation_error"] for figures in history]
    return bool(min(errors[-epochs:]) >= min(errors[:-epochs]))
