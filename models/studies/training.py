"""Trainings as pieces: a study compares networks with the same data, recipe and schedule."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from models.architectures import VARIANTS
from models.console import console
from models.data import ArrayDataset, load
from models.data.dataset import Split
from models.imaging.preprocess import Geometry
from models.studies.pieces import Piece
from models.studies.study import StudySettings
from models.training.evaluate import evaluate
from models.training.recipe import Recipe
from models.training.train import train

CHECKPOINT = "model.safetensors"
"""File of the trained network in the folder of its piece."""


class TrainingSettings(StudySettings):
    """The recipe of He et al. 2016a, section 4.2, except for the number of epochs and one epoch of warm-up."""

    train_images: PositiveInt | None = None
    """Images drawn from the training split, the same for every network and seed; None takes all."""
    test_images: PositiveInt | None = None
    """Images drawn from the test split for the error of each epoch; the trained network is tested on all."""
    size: PositiveInt | None = None
    """Height and width in pixels to which images are reduced; None leaves them as they are stored."""
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 128
    peak_lr: PositiveFloat = 0.1
    augment: bool = True
    """Random shifts by up to an eighth of the image, and mirroring."""


def images(folder: Path, split: Split, count: int | None, size: int | None) -> ArrayDataset:
    """`count` images of a split, drawn with one fixed seed, reduced to `size` x `size` pixels.

    Raises:
        DataError: the data set is missing or damaged.
    """
    return _images(folder.resolve(), split, count, size)


@functools.cache
def _images(folder: Path, split: Split, count: int | None, size: int | None) -> ArrayDataset:
    data = load(folder, split)
    if size is not None:
        data = load(folder, split, Geometry(size=(size, size), mode=data.geometry.mode))
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.labels))[:count])
    return ArrayDataset(data.name, data.classes, data.labels[chosen], data.images(chosen))


def training(arch: str, seed: int, settings: TrainingSettings, folder: Path, **options: Any) -> Piece:
    """The piece that trains one network; its numbers are the errors of each epoch and of the trained network.

    The `train_error` of an epoch is the error on augmented images during the epoch, while the network changes. The
    `train_error` of the trained network is measured in evaluation mode, on images without augmentation.
    """
    data = images(folder, "train", settings.train_images, settings.size)
    test = images(folder, "test", None, settings.size)
    watched = {"test": images(folder, "test", settings.test_images, settings.size)}
    recipe = Recipe(
        arch=arch,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        peak_lr=settings.peak_lr,
        weight_decay=1e-4,
        warmup_epochs=1.0,
        schedule="step",
        label_smoothing=0.0,
        crop_padding=data.geometry.size[0] // 8 if settings.augment else 0,
        flip=settings.augment,
        seed=seed,
        options=options,
    )

    suffix = "".join(f" {key} {value}" for key, value in options.items())
    name = f"{arch}{suffix} seed {seed}"

    def work(place: Path) -> dict[str, Any]:
        console.print(f"{name}: training in {place}", highlight=False, soft_wrap=True)
        result = train(recipe, data, test, place, resume=True, watched=watched)
        history = [_figures(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        return {
            "curve": history,
            "train_error": 1.0 - evaluate(result.model(), data, result.preprocess).top1,
            "test_error": 1.0 - result.training["test"]["top1"],
        }

    identity = {
        "recipe": asdict(recipe),
        "data": data.name,
        "train": data.array.shape,
        "test": watched["test"].array.shape,
    }
    blocks = sum(VARIANTS[arch].depths)
    return Piece(name, identity, work, cost=settings.epochs * len(data.labels) * blocks)


def _figures(line: str) -> dict[str, float]:
    figures = json.loads(line)
    return {key: figures[key] for key in ("epoch", "lr", "train_loss", "train_error", "test_error")}
