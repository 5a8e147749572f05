"""Augmentation of batches of one size, uint8 tensors [N, C, H, W]: shift, flip, erasing. Draws: float64 [N, count]."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.training.augmentation.draws import FloatArray

ERASING_TRIES = 10
ERASING_DRAWS = 1 + 4 * ERASING_TRIES


def random_shift(images: Tensor, padding: int, draws: FloatArray) -> Tensor:
    """Shift each image by up to `padding` pixels each way and fill with zeros (He et al. 2016a, section 4.2).

    Draws: vertical and horizontal offset.
    """
    if padding == 0:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4)
    offsets = torch.from_numpy((draws * (2 * padding + 1)).astype("int64"))
    rows = offsets[:, :1] + torch.arange(height)
    columns = offsets[:, 1:] + torch.arange(width)
    batch = torch.arange(len(images))[:, None, None]
    # Indexing with broadcast index tensors puts the channels last.
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor, draws: FloatArray) -> Tensor:
    """Mirror half of the images left to right. Draws: whether."""
    flips = torch.from_numpy(draws[:, :, None, None] < 0.5)
    return torch.where(flips, images.flip(3), images)


def random_erasing(images: Tensor, probability: float, fill: Tensor, draws: FloatArray) -> Tensor:
    """Fill a random rectangle, 2-33 % of the area, aspect 0.3-3.3, with `fill` [C, 1, 1] (Zhong et al. 2020).

    As in torchvision, the aspect is uniform in its logarithm, and the first of ten rectangles that is smaller than the
    image is taken.

    Draws: whether, then area, aspect, top and left of each try, float64 [N, ERASING_DRAWS].
    """
    if probability == 0:
        return images
    height, width = images.shape[2:]
    tries = draws[:, 1:].reshape(len(images), ERASING_TRIES, 4)
    area, aspect, top, left = np.moveaxis(tries, 2, 0)
    area = height * width * (0.02 + area * 0.31)
    aspect = np.exp(math.log(0.3) + aspect * math.log(3.3 / 0.3))
    high, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (high < height) & (wide < width)
    top, left = np.floor(top * (height - high + 1)), np.floor(left * (width - wide + 1))
    chosen = np.arange(len(images)), fits.argmax(1)
    sides = [each[chosen][:, None, None] for each in (top, top + high, left, left + wide)]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    inside = (rows >= sides[0]) & (rows < sides[1]) & (columns >= sides[2]) & (columns < sides[3])
    inside &= ((draws[:, 0] < probability) & fits.any(1))[:, None, None]
    return torch.where(torch.from_numpy(inside)[:, None], fill, images)
