"""Curves of a chart: a line, and a band over the seeds."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Curve = dict[str, NDArray[np.float64]]
"""`x` and `y`; where there are several networks also `low` and `high`, and where there is a theory also `theory`."""
Charts = dict[str, dict[str, Curve]]
"""By the name of the chart and of the curve."""


def line(x: ArrayLike, y: ArrayLike) -> Curve:
    return {"x": np.asarray(x, np.float64), "y": np.asarray(y, np.float64)}


def band(x: ArrayLike, rows: list[NDArray[np.float64]], kind: Literal["error", "range", "quartiles"]) -> Curve:
    """A line with a band, from one row of values per network; empty without networks.

    Args:
        x: the places of the values.
        rows: the values of each network.
        kind: the mean and two standard errors of it; the mean and the range; or the median and the middle half.
    """
    if not rows:
        return {key: np.empty(0) for key in ("x", "y", "low", "high")}
    values = np.stack(rows)
    mean = values.mean(0)
    if kind == "error":
        error = 2 * values.std(0) / np.sqrt(len(values))
        low, middle, high = mean - error, mean, mean + error
    elif kind == "range":
        low, middle, high = values.min(0), mean, values.max(0)
    else:
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    return {**line(x, middle), "low": low, "high": high}
