"""Real images to validate a model on: those of a data set, or photographs that ship with the project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data import DataError, Dataset, Indices, Subset, load, match_classes
from models.imaging import images
from models.imaging.preprocess import Preprocess, UInt8Array
from models.training.checkpoint import Checkpoint
from models.training.input.splits import split
from models.training.recipe import Recipe

GOLDEN_IMAGES = 16
PARITY_IMAGES = 512
CALIBRATION_IMAGES = 512
SELECTION_IMAGES = 2048
_FEWEST_PARITY_IMAGES = 3
"""Errors of logits are relative to their spread, which one image does not have, nor two similar ones."""


@dataclass(frozen=True)
class Samples:
    """Images as input of the graph, uint8 [n, H, W, C], by their use."""

    parity: UInt8Array
    """Images to compare artifacts with the eager model; the shipped photographs if there are not enough others."""
    calibration: UInt8Array
    """Images to calibrate int8."""
    selection: UInt8Array
    """Images to make choices on, which the network was not trained on."""
    selection_labels: NDArray[np.int64] | None
    """None for photographs."""
    selection_source: str
    """Kind of the images to make choices on, for people."""
    test: Dataset | None
    """Images to report accuracy on; no choice is made on them."""


def find(trained: Checkpoint, folder: Path | None, by_position: bool, others: Sequence[Checkpoint] = ()) -> Samples:
    """Images of a data set as `from_data`; without a folder, the shipped photographs."""
    if folder is None:
        return from_photographs(trained.preprocess)
    return from_data(trained, folder, by_position=by_position, others=others)


def from_photographs(preprocess: Preprocess) -> Samples:
    """The shipped photographs for every use."""
    views = photographs(preprocess)
    return Samples(views, views, views, None, "photographs", None)


def from_data(
    trained: Checkpoint, folder: Path, *, by_position: bool = False, others: Sequence[Checkpoint] = ()
) -> Samples:
    """Images of a data set in the geometry of a checkpoint.

    Choices are made on the training images that were held out. If there are none, they are made on every second test
    image, and accuracy is reported on the others. Without a training split, int8 is calibrated on these images, too.

    Args:
        trained: the checkpoint.
        folder: the data set.
        by_position: match classes by their order, not by their names.
        others: the other members of an ensemble: images are held out if no member was trained on them.

    Raises:
        DataError: the folder is no usable data set, or has other classes.
    """
    test = match_classes(load(folder, "test", trained.preprocess), trained.labels, by_position=by_position)
    training = _training(trained, folder, by_position)
    held_out = None if training is None else _held_out([trained, *others], training)
    source, reported = "held-out training images", test
    if held_out is None:
        source, indices = "held-out test images", np.arange(len(test.labels))
        held_out, reported = Subset(test, indices[::2]), Subset(test, indices[1::2])
    chosen = evenly_spaced(np.arange(len(held_out.labels)), SELECTION_IMAGES)
    calibrated = held_out if training is None else training
    compared = evenly_spaced(np.arange(len(test.labels)), PARITY_IMAGES)
    few = len(compared) < _FEWEST_PARITY_IMAGES
    return Samples(
        parity=photographs(trained.preprocess) if few else test.images(compared),
        calibration=calibrated.images(evenly_spaced(np.arange(len(calibrated.labels)), CALIBRATION_IMAGES)),
        selection=held_out.images(chosen),
        selection_labels=held_out.labels[chosen],
        selection_source=source,
        test=reported if len(reported.labels) else None,
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


def _training(trained: Checkpoint, folder: Path, by_position: bool) -> Dataset | None:
    """The training split; None for a data set with test images only."""
    try:
        training = load(folder, "train", trained.preprocess)
    except DataError:
        return None
    return match_classes(training, trained.labels, by_position=by_position)


def _held_out(members: Sequence[Checkpoint], training: Dataset) -> Dataset | None:
    """The training images that were held out from all members; None if there are none, or if they are not known."""
    common = np.arange(len(training.labels))
    for trained in members:
        indices = _held_out_indices(trained, training)
        if indices is None:
            return None
        common = np.intersect1d(common, indices)
    return Subset(training, common) if len(common) else None


def _held_out_indices(trained: Checkpoint, training: Dataset) -> Indices | None:
    """The training images that were held out; None if there are none, or if these are not the images of the training.

    With another number of images the same seed would hold out others: the network may have been trained on them.
    """
    try:
        trained_on, held_out = split(training, Recipe(**trained.training["recipe"]))
    except (KeyError, TypeError, ValueError):  # imported weights, another recipe, or fewer images than it holds out
        return None
    same = len(trained_on.labels) == trained.training.get("images")
    return held_out.indices if isinstance(held_out, Subset) and same else None


def evenly_spaced(items: Indices, count: int) -> Indices:
    """At most `count` of the items, evenly spaced."""
    return items[np.linspace(0, len(items) - 1, min(count, len(items))).astype(np.int64)]
