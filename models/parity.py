"""How far two sets of logits are apart. No torch: `export` checks before writing, `service` before serving."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.manifest import Parity

Float32Array = NDArray[np.float32]


def compare(actual: Float32Array, expected: Float32Array) -> Parity:
    """Compare logits [n, classes] with the eager model's.

    The error is the largest difference of a logit, divided by the mean over classes of the standard deviation of the
    expected logits over the images. Probabilities are no measure: a network that gives every image one class agrees
    with itself in them even when its colour channels are swapped.

    Raises:
        ValueError: another shape, or values that are not finite, or images that the expected logits do not tell apart.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"logits have shape {list(actual.shape)}, expected {list(expected.shape)}")
    if not np.isfinite(actual).all():
        raise ValueError("the logits are not finite")
    spread = float(np.std(expected.astype(np.float64), axis=0).mean())
    if not spread > 0:
        raise ValueError("the expected logits are the same for every image: nothing can be checked on them")
    difference = np.abs(actual.astype(np.float64) - expected)
    return Parity(
        logit_error=float(difference.max() / spread),
        top1_agreement=float((actual.argmax(1) == expected.argmax(1)).mean()),
        images=len(expected),
    )
