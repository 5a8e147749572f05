"""The network `tiny`: five classes of 32 x 32 colour images, cut from a shorter side of 36 pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from models.artifact import manifest
from models.artifact.manifest import Precision
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.executors import Runtime
from service.executors.base import Source

Photographs = list[tuple[str, bytes]]
"""File names and contents."""

Golden = tuple[UInt8Array, Float32Array]
"""Images [n, 32, 32, 3] and the logits [n, 5] of the PyTorch model."""

Eager = Callable[[bytes], Float32Array]
"""Gives the probabilities [5] of an image file by the PyTorch model."""


def source_of(version: Path, runtime: Runtime, precision: Precision = "float32", cache: Path = Path("no")) -> Source:
    """What an executor of a runtime loads of a version, with one thread."""
    described = manifest.read(version)
    return Source(version, described, runtime.choose(described, precision), precision, 1, runtime.argument, cache)


def cut(data: bytes) -> UInt8Array:
    """What `tiny` takes of an image file, uint8 [32, 32, 3], in Pillow's own operations."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    shorter = min(image.size)
    image = image.resize((36 * image.width // shorter, 36 * image.height // shorter), Image.Resampling.BILINEAR)
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    return np.asarray(image.crop((left, top, left + 32, top + 32)))
