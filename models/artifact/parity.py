"""Comparison of logits. No torch: `export` compares before it writes a version, `service` before it serves one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.artifact.manifest import Parity, Precision

Float32Array = NDArray[np.float32]

MAX_LOGIT_ERROR: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1, "int8": 2e-1}
"""Largest error of the logits by precision; `export` writes and `service` serves no artifact beyond it. The bound is on
the largest difference, for int8 on the root mean square: the largest of many rounding errors depends on the number of
classes, while swapped channels or a wrong mean change all logits."""


class ParityError(ValueError):
    """The logits differ from those of the eager model; the message has the error."""


def check(actual: Float32Array, expected: Float32Array, precision: Precision) -> Parity:
    """Compare logits [n, classes] with the eager model's.

    Raises:
        ParityError: as for `compare`, or the error is larger than the precision allows.
    """
    parity = compare(actual, expected)
    error = bounded_error(parity, precision)
    if error > MAX_LOGIT_ERROR[precision]:
        raise ParityError(
            f"the logits differ from the eager model's by {error:.1e} of their spread, "
            f"more than the {MAX_LOGIT_ERROR[precision]:.0e} allowed for {precision}"
        )
    return parity


def bounded_error(parity: Parity, precision: Precision) -> float:
    """The error that `MAX_LOGIT_ERROR` bounds for a precision."""
    return parity.logit_rms_error if precision == "int8" else parity.logit_error


def compare(actual: Float32Array, expected: Float32Array) -> Parity:
    """Compare logits [n, classes] with the eager model's.

    The errors are the largest difference of a logit and the root mean square of all differences, both divided by the
    mean over classes of the standard deviation of the expected logits over the images. Probabilities are no measure: a
    network that predicts one class for every image has the same ones even with swapped colour channels.

    Raises:
        ParityError: the shapes differ, values are not finite, or the expected logits are the same for all images.
    """
    if actual.shape != expected.shape:
        raise ParityError(f"logits have shape {list(actual.shape)}, expected {list(expected.shape)}")
    if not np.isfinite(actual).all():
        raise ParityError("the logits are not finite")
    spread = float(np.std(expected.astype(np.float64), axis=0).mean())
    if not spread > 0:
        raise ParityError("the expected logits are the same for every image, so nothing can be compared")
    difference = np.abs(actual.astype(np.float64) - expected)
    return Parity(
        logit_error=float(difference.max() / spread),
        logit_rms_error=float(np.sqrt(np.mean(difference**2)) / spread),
        top1_agreement=float((actual.argmax(1) == expected.argmax(1)).mean()),
        images=len(expected),
    )
