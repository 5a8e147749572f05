"""The recipe of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from models.training.device import Compute
from models.training.optim import Schedule


class RecipeError(ValueError):
    """The options and the data do not fit together; the message says which option to change."""


@dataclass(frozen=True)
class Recipe:
    """All options that decide the result of a run."""

    arch: str
    """Name in the table of architectures."""
    epochs: int = 30
    batch_size: int = 128
    peak_lr: float = 0.1
    """Learning rate after warm-up."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Of weights; biases and normalisation have none."""
    warmup_epochs: float = 1.0
    schedule: Schedule = "cosine"
    label_smoothing: float = 0.1
    crop_padding: int = 4
    """Largest random shift in pixels."""
    flip: bool = True
    erasing: float = 0.0
    """Share of images with a random rectangle erased."""
    seed: int = 0
    validation: int = 0
    """Number of training images that are held out to make choices on."""
    compute: Compute = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    """Options `shortcut`, `norm`, `zero_gamma` of the network."""
