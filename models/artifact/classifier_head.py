"""`classifier.npz`: the weights of the last layer, from which class activation maps are computed. No torch.

The graphs contain them too, but a runtime does not return weights; one small file serves all formats and precisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.artifact.golden import read_arrays
from models.artifact.manifest import ManifestError
from models.artifact.parity import Float32Array


@dataclass(frozen=True, slots=True)
class Classifier:
    """The last layer: logits = embedding @ weight.T + bias."""

    weight: Float32Array
    """float32 [classes, features]."""
    bias: Float32Array
    """float32 [classes]."""


def write(path: Path, classifier: Classifier) -> None:
    """Write the weights of a classifier."""
    np.savez_compressed(path, weight=classifier.weight, bias=classifier.bias)


def read(path: Path, classes: int) -> Classifier:
    """Read the weights of a classifier with a number of classes.

    Raises:
        ManifestError: the file is missing, was not written by `write`, or has weights of another shape.
    """
    weight, bias = read_arrays(path, weight=np.float32, bias=np.float32)
    if weight.ndim != 2 or weight.shape[0] != classes or bias.shape != (classes,):
        raise ManifestError(
            f"{path}: has weights {list(weight.shape)} and biases {list(bias.shape)}, not those of {classes} classes: "
            "export the version again"
        )
    return Classifier(weight, bias)
