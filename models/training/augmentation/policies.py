"""Policies that draw operations and their magnitudes: TrivialAugment Wide and RandAugment, as in torchvision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image

from models.training.augmentation import operations
from models.training.augmentation.draws import FloatArray
from models.training.augmentation.operations import Operation

LARGEST = 30
"""Magnitudes of an operation are 0 to 30."""
DRAWS_PER_OPERATION = 3


class _Range(NamedTuple):
    operation: Operation
    amount: Callable[[int], float]
    """The argument of the operation by the magnitude, 0 to `LARGEST`."""
    signed: bool = False
    """Whether the argument is negative half of the time."""


def _linear(largest: float) -> Callable[[int], float]:
    return lambda magnitude: _between(0.0, largest)[magnitude]


@functools.cache
def _between(first: float, last: float) -> list[float]:
    # In float32, as torchvision has them: some are just below a whole number of pixels.
    return torch.linspace(first, last, LARGEST + 1).tolist()


def _ranges(shear: float, shift: tuple[float, float], degrees: float, change: float, bits: int) -> tuple[_Range, ...]:
    """All operations, in torchvision's order; `shift` in pixels, across and down."""
    return (
        _Range(operations.identity, _linear(0)),
        _Range(operations.shear_x, _linear(shear), signed=True),
        _Range(operations.shear_y, _linear(shear), signed=True),
        _Range(operations.translate_x, _linear(shift[0]), signed=True),
        _Range(operations.translate_y, _linear(shift[1]), signed=True),
        _Range(operations.rotate, _linear(degrees), signed=True),
        _Range(operations.brightness, _linear(change), signed=True),
        _Range(operations.colour, _linear(change), signed=True),
        _Range(operations.contrast, _linear(change), signed=True),
        _Range(operations.sharpness, _linear(change), signed=True),
        _Range(operations.posterize, lambda magnitude: 8 - round(magnitude * bits / LARGEST)),
        _Range(operations.solarize, lambda magnitude: _between(255.0, 0.0)[magnitude]),
        _Range(operations.autocontrast, _linear(0)),
        _Range(operations.equalize, _linear(0)),
    )


def trivial_augment(image: Image.Image, draws: FloatArray) -> Image.Image:
    """One operation with one magnitude (Müller & Hutter 2021, the wide ranges). Draws: operation, magnitude, sign."""
    ranges = _ranges(shear=0.99, shift=(32, 32), degrees=135, change=0.99, bits=6)
    return _apply(image, ranges, int(draws[1] * (LARGEST + 1)), draws)


def rand_augment(image: Image.Image, count: int, magnitude: int, draws: FloatArray) -> Image.Image:
    """`count` operations with a magnitude of 0 to 30 (Cubuk et al. 2020). Draws of each: operation, none, sign."""
    shift = (150 / 331 * image.width, 150 / 331 * image.height)
    for drawn in draws.reshape(count, DRAWS_PER_OPERATION):
        image = _apply(image, _ranges(shear=0.3, shift=shift, degrees=30, change=0.9, bits=4), magnitude, drawn)
    return image


def _apply(image: Image.Image, ranges: tuple[_Range, ...], magnitude: int, draws: FloatArray) -> Image.Image:
    chosen = ranges[int(draws[0] * len(ranges))]
    amount = chosen.amount(magnitude)
    return chosen.operation(image, -amount if chosen.signed and draws[2] >= 0.5 else amount)
