"""A step of training with small random images, and recipes that use all parts of it."""

from __future__ import annotations

import numpy as np
import torch

from models.artifact.manifest import Architecture
from models.data import ArrayDataset
from models.imaging.preprocess import Preprocess
from models.training.augmentation.pipeline import Pipeline, TrainingBatch
from models.training.input.sampling import plan_epoch
from models.training.recipe import Recipe
from models.training.step import TrainingStep, start

RECIPES = {
    "plain": Recipe("tiny", epochs=2, batch_size=8),
    "mixed": Recipe("tiny", epochs=2, batch_size=8, mixup=0.2, cutmix=1.0, loss="bce", label_smoothing=0.1),
    "everything else": Recipe(
        "tiny", epochs=2, batch_size=8, accumulate=2, clip=1.0, ema=0.9, stochastic_depth=0.2, balance="weights",
        optimizer="adamw",
    ),
}  # fmt: skip
_IMAGES = 16


def prepared(recipe: Recipe, device: torch.device) -> tuple[TrainingStep, list[TrainingBatch]]:
    """A step whose network is on a device, and the batches of an epoch in main memory."""
    array = np.random.default_rng(0).integers(0, 256, (_IMAGES, 16, 16, 1), dtype=np.uint8)
    data = ArrayDataset("noise", ("a", "b", "c"), np.arange(_IMAGES) % 3, array)
    preprocess = Preprocess(**data.geometry.model_dump(), mean=(0.5,), std=(0.2,))
    state = start(recipe, Architecture(name="tiny", num_classes=3, in_channels=1), device)
    step = TrainingStep(state, recipe, data, preprocess, device)
    pipeline = Pipeline(data, recipe, preprocess, step.blocks)
    return step, [pipeline.read(plan) for plan in plan_epoch(data.labels, recipe, 0)]
