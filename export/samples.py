"""Real images to validate a model on: those of a data set, or photographs that ship with the project."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data import DataError, Dataset, Indices, Subset, load
from models.imaging import images
from models.imaging.preprocess import Preprocess, UInt8Array
from models.training.checkpoint import Checkpoint
from models.training.recipe import Recipe
from models.training.train import split

GOLDEN_IMAGES = 16
PARITY_IMAGES = 512
CALIBRATION_IMAGES = 512
SELECTION_IMAGES = 2048


@dataclass(frozen=True)
class Samples:
    """Images as input of the graph, uint8 [n, H, W, C], by their use."""

    parity: UInt8Array
    """Images to compare artifacts with the eager model."""
    calibration: UInt8Array
    """Images to calibrate int8."""
    selection: UInt8Array
    """Images to make choices on; if the training split is known, the network was not trained on them."""
    selection_labels: NDArray[np.int64] | None
    """None for photographs."""
    test: Dataset | None
    """Images to report accuracy on."""
    selection_indices: Indices
    """Indices of the images of `test` that choices were made on."""


def from_photographs(preprocess: Preprocess) -> Samples:
    """The shipped photographs for every use."""
    views = photographs(preprocess)
    return Samples(views, views, views, None, None, np.empty(0, np.int64))


def from_data(trained: Checkpoint, folder: Path) -> Samples:
    """Images of a data set in the geometry of a checkpoint.

    Choices are made on the held-out training images or, if there are none, on every second test image. Without a
    training split, int8 is calibrated on these images, too.

    Raises:
        DataError: the folder is no usable data set.
        CheckpointError: the data set has other classes.
    """
    test = load(folder, "test", trained.preprocess)
    trained.check_classes(test.classes)
    training = _training(folder, trained.preprocess)
    held_out = None if training is None else _held_out(trained, training)
    selection_indices = np.empty(0, np.int64)
    if held_out is None:
        selection_indices = evenly_spaced(np.arange(0, len(test.labels), 2), SELECTION_IMAGES)
        held_out = Subset(test, selection_indices)
    chosen = evenly_spaced(np.arange(len(held_out.labels)), SELECTION_IMAGES)
    calibrated = held_out if training is None else training
    return Samples(
        parity=test.images(evenly_spaced(np.arange(len(test.labels)), PARITY_IMAGES)),
        calibration=calibrated.images(evenly_spaced(np.arange(len(calibrated.labels)), CALIBRATION_IMAGES)),
        selection=held_out.images(chosen),
        selection_labels=held_out.labels[chosen],
        test=test,
        selection_indices=selection_indices,
    )


def photographs(preprocess: Preprocess) -> UInt8Array:
    """Each shipped photograph and its quarters, and the same mirrored: uint8 [60, H, W, C]."""
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


def _training(folder: Path, geometry: Preprocess) -> Dataset | None:
    """The training split; None for a data set with test images only."""
    try:
        return load(folder, "train", geometry)
    except DataError:
        return None


def _held_out(trained: Checkpoint, training: Dataset) -> Dataset | None:
    recipe = trained.training.get("recipe", {})
    return split(training, Recipe(**recipe))[1] if recipe.get("validation") else None


def evenly_spaced(items: Indices, count: int) -> Indices:
    """At most `count` of the items, evenly spaced."""
    return items[np.linspace(0, len(items) - 1, min(count, len(items))).astype(np.int64)]
