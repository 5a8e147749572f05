"""`golden.npz`: a few real images, and the logits of the eager PyTorch model for them. No torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from models.artifact.manifest import ManifestError
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array


def write(path: Path, images: UInt8Array, logits: Float32Array) -> None:
    """Write images, uint8 [n, H, W, C] as input of the graph, and their logits, float32 [n, classes]."""
    np.savez_compressed(path, images=images, logits=logits)


def read(path: Path) -> tuple[UInt8Array, Float32Array]:
    """Read images and logits.

    Raises:
        ManifestError: the file is missing or was not written by `write`.
    """
    try:
        with np.load(path, allow_pickle=False) as golden:
            return golden["images"], golden["logits"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ManifestError(
            f"{path}: does not hold the arrays that resnet-export writes: export the version again"
        ) from error
