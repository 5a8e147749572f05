"""`golden.npz`: a few real images, and the logits of the eager PyTorch model for them. No torch."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

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
    images, logits = read_arrays(path, "images", "logits")
    return images, logits


def read_arrays(path: Path, *names: str) -> list[Any]:
    """Arrays of an npz file of a version, by name.

    Raises:
        ManifestError: the file is missing, damaged, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ManifestError(
            f"{path}: does not hold the arrays that resnet-export writes: export the version again"
        ) from error
