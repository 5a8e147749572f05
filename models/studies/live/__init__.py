"""The reference of the page that computes studies in the browser (`service/page/studies/`), in numpy and float64.

Each module here has a twin in JavaScript with the same name: the same settings give the same numbers, up to rounding.
The networks are those of the studies in `models/studies`, with fewer units; their formulas are used where they are free
of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

from models.studies.live import finite_step, order_of_operations, shattered_gradients, signal_growth
from models.studies.live.curves import Charts

__all__ = ["COMPUTE"]

COMPUTE: dict[str, Callable[..., Charts]] = {
    "shattered-gradients": shattered_gradients.compute,
    "signal-growth": signal_growth.compute,
    "order-of-operations": order_of_operations.compute,
    "finite-step": finite_step.compute,
}
"""By the name of a study: its curves for the settings of the page, given by their names in the page's address."""
