"""The last layer's weights, beside the graphs that hold them too: class activation maps need them. No torch.

A graph gives them to nobody, and a compiled engine cannot be read; one small file serves every format and precision.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.artifact.manifest import ManifestError
from models.artifact.parity import Float32Array


@dataclass(frozen=True, slots=True)
class Classifier:
    """logits = embedding @ weight.T + bias."""

    weight: Float32Array
    """float32 [classes, features]."""
    bias: Float32Array
    """float32 [classes]."""


def write(path: Path, classifier: Classifier) -> None:
    """Keep the weights of a classifier."""
    np.savez_compressed(path, weight=classifier.weight, bias=classifier.bias)


def read(path: Path, classes: int) -> Classifier:
    """What `write` kept, of a network with so many classes.

    Raises:
        ManifestError: the file is missing, or is not what `write` makes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            classifier = Classifier(file["weight"], file["bias"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ManifestError(
            f"{path}: does not hold the arrays that resnet-export writes: export the version again"
        ) from error
    weight, bias = classifier.weight, classifier.bias
    if weight.ndim != 2 or weight.shape[0] != classes or bias.shape != (classes,):
        raise ManifestError(
            f"{path}: has weights {list(weight.shape)} and biases {list(bias.shape)}, which are not this model's: "
            "export the version again"
        )
    return classifier
