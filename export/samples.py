"""Real images to check a model on: from its data set, or else photographs that ship with the project."""

from __future__ import annotations

from importlib import resources

import numpy as np

from models import images
from models.data import Dataset
from models.preprocess import Preprocess, UInt8Array


def from_dataset(data: Dataset, count: int) -> UInt8Array:
    """`count` images spread evenly over the data set, uint8 [count, H, W, C]."""
    return data.images(np.linspace(0, len(data.labels) - 1, min(count, len(data.labels))).astype(np.int64))


def photographs(preprocess: Preprocess) -> UInt8Array:
    """Each shipped photograph whole, its quarters, and all of them mirrored: uint8 [60, H, W, C]."""
    views = []
    for path in sorted(resources.files("export").joinpath("photographs").iterdir(), key=lambda item: item.name):
        if not path.name.endswith(".jpg"):
            continue
        whole = images.decode(path.read_bytes(), preprocess.mode)
        width, height = whole.width // 2, whole.height // 2
        quarters = [whole.crop((left, top, left + width, top + height)) for left in (0, width) for top in (0, height)]
        views += [preprocess.apply(view) for view in (whole, *quarters)]
    upright = np.stack(views)
    return np.concatenate([upright, upright[:, :, ::-1]])
