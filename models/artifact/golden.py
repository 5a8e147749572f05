"""`golden.npz`: a few real images, and the logits of the eager PyTorch model for them. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.artifact.manifest import ManifestError
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array

_AGAIN = "export the version again"


def write(path: Path, images: UInt8Array, logits: Float32Array) -> None:
    """Write images, uint8 [n, H, W, C] as input of the graph, and their logits, float32 [n, classes]."""
    np.savez_compressed(path, images=images, logits=logits)


def read(path: Path) -> tuple[UInt8Array, Float32Array]:
    """Read images and logits.

    Raises:
        ManifestError: the file is missing or was not written by `write`, or has no image.
    """
    images, logits = read_arrays(path, images=np.uint8, logits=np.float32)
    if images.ndim != 4 or logits.ndim != 2 or not len(images) == len(logits) > 0:
        raise ManifestError(f"{path}: has images {list(images.shape)} and logits {list(logits.shape)}: {_AGAIN}")
    return images, logits


def read_arrays(path: Path, **types: type[np.generic]) -> list[Any]:
    """Arrays of an npz file of a version, by name and type.

    Raises:
        ManifestError: the file is missing, damaged, or lacks an array of this type.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in types]
    except Exception as error:  # damaged files end in any exception: zlib.error, or MemoryError for an absurd shape
        raise ManifestError(f"{path}: does not hold the arrays that resnet-export writes: {_AGAIN}") from error
    for (name, expected), array in zip(types.items(), arrays, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != expected:  # members of other forms are read as bytes
            raise ManifestError(f"{path}: {name} is no array of {np.dtype(expected)}: {_AGAIN}")
    return arrays
