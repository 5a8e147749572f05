"""Golden images: a few real ones, and the logits that the eager PyTorch model gives for them. No torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from models.artifact.manifest import ManifestError
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array


def write(path: Path, images: UInt8Array, logits: Float32Array) -> None:
    """Keep images, uint8 [n, H, W, C] as the graph takes them, and their logits, float32 [n, classes]."""
    np.savez_compressed(path, images=images, logits=logits)


def read(path: Path) -> tuple[UInt8Array, Float32Array]:
    """What `write` kept.

    Raises:
        ManifestError: the file is missing, or is not what `write` makes.
    """
    try:
        with np.load(path, allow_pickle=False) as golden:
            return golden["images"], golden["logits"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ManifestError(
            f"{path}: does not hold the arrays that resnet-export writes: export the version again"
        ) from error
