"""Training images in memory, decoded once."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data import Indices
from models.data.dataset import DatasetView
from models.imaging.preprocess import UInt8Array
from models.memory_limit import available_memory
from models.progress import progress_bar
from models.training.augmentation.pipeline import Pipeline
from models.training.recipe import RecipeError

_SHARE = 0.8
"""Largest share of the available memory that is taken."""


@dataclass(frozen=True)
class CachedDataset(DatasetView):
    """A data set whose images are in memory, in the size of its geometry: uint8 [n, H, W, C]."""

    array: UInt8Array

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.source.labels

    def images(self, indices: Indices) -> UInt8Array:
        return self.array[indices]

    def image(self, index: int) -> Image.Image:
        return self.source.image(index)


def cache_images(pipeline: Pipeline) -> Pipeline:
    """The pipeline with its images in memory.

    Raises:
        RecipeError: they do not fit, or the recipe cuts each image at random before it is resized.
    """
    data, count = pipeline.data, len(pipeline.data.labels)
    if pipeline.by_image:
        raise RecipeError("--cache holds images of one size: leave out --random-crop, --auto-augment, --colour-jitter")
    size, free = int(np.prod(data.geometry.shape)), available_memory()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each of them caches all images
    if free is not None and count * size > (available := int(_SHARE * free / processes)):
        raise RecipeError(
            f"--cache needs {count * size / 1e9:.1f} GB, and {available / 1e9:.1f} GB of memory can be taken, "
            f"for {available // size:,} of the {count:,} images: train without --cache"
        )
    array = np.empty((count, *data.geometry.shape), np.uint8)
    with progress_bar("decoding images", count) as progress:
        for first in range(0, count, 256):
            last = min(first + 256, count)
            array[first:last] = data.images(np.arange(first, last))
            progress.update(last)
    return replace(pipeline, data=CachedDataset(data, array))
