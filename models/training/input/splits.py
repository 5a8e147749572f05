"""Images that are held out, and the statistics of those that are trained on."""

from __future__ import annotations

import numpy as np

from models.data import Dataset, Subset
from models.imaging.preprocess import Preprocess
from models.progress import progress_bar
from models.training.recipe import Recipe, RecipeError

_STATISTICS_IMAGES = 65_536


def split(data: Dataset, recipe: Recipe) -> tuple[Dataset, Dataset | None]:
    """Training images, and the `recipe.validation` images that are held out, the same ones for the same seed.

    A class never loses all its training images: its last one is not held out.
    """
    count = len(data.labels)
    held_out = round(recipe.validation * count) if recipe.validation < 1 else int(recipe.validation)
    if recipe.validation == 0:
        return data, None
    if held_out == 0:
        raise RecipeError(f"--validation {recipe.validation:g} holds out none of the {count} images: give more")
    if held_out >= count:
        raise RecipeError(f"--validation {recipe.validation:g} holds out all {count} images: give fewer")
    order = np.random.default_rng(recipe.seed).permutation(count)
    _, last = np.unique(data.labels[order][::-1], return_index=True)  # of each class, the last one in this order
    kept = np.union1d(order[held_out:], order[::-1][last])
    if len(kept) == count:
        raise RecipeError(f"--validation {recipe.validation:g} holds out no image: each class has a single image")
    return Subset(data, kept), Subset(data, np.setdiff1d(order, kept))


def measure_preprocess(data: Dataset) -> Preprocess:
    """The geometry of the images, with the mean and standard deviation of each channel of the data.

    Of more than `_STATISTICS_IMAGES` images only every second, third, ... image is read: reading all of ImageNet would
    take as long as an epoch and change the mean by less than 0.001.
    """
    count = len(data.labels)
    chosen = np.arange(0, count, -(-count // _STATISTICS_IMAGES))
    total = squares = np.zeros(1, np.int64)
    with progress_bar("measuring mean and deviation", total=len(chosen)) as progress:
        for first in range(0, len(chosen), 256):
            values = data.images(chosen[first : first + 256]).reshape(-1, data.geometry.channels)
            # Integer sums are exact, so the figures do not depend on how the images are grouped.
            total = total + values.sum(0, dtype=np.int64)
            squares = squares + np.square(values, dtype=np.uint16).sum(0, dtype=np.int64)
            progress.update(min(first + 256, len(chosen)))
    height, width = data.geometry.size
    pixels = len(chosen) * height * width
    mean = total / (255.0 * pixels)
    std = np.sqrt(np.maximum(squares / (255.0**2 * pixels) - mean**2, 1e-12))
    return Preprocess(
        **data.geometry.model_dump(),
        mean=tuple(np.round(mean, 6).tolist()),
        std=tuple(np.round(std, 6).tolist()),
    )
