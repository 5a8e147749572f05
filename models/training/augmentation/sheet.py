"""A sheet of augmented images, to look at before a long training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.files import atomic_write
from models.training.augmentation.pipeline import TrainingBatch

_COLUMNS, _ROWS = 8, 4
_MIN_SIDE = 96


def write_sheet(batch: TrainingBatch, path: Path) -> None:
    """Write up to 32 images of a batch as the network gets them, before normalisation, as PNG."""
    images = batch.images.float()
    if batch.mixture is not None:
        images = batch.mixture.images(images)
    shown = images[: _COLUMNS * _ROWS].round().to(torch.uint8)
    count, channels, height, width = shown.shape
    rows = -(-count // _COLUMNS)
    sheet = np.zeros((rows * _COLUMNS, channels, height, width), np.uint8)
    sheet[:count] = shown.numpy()
    tiles = sheet.reshape(rows, _COLUMNS, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = Image.fromarray(tiles.reshape(rows * height, _COLUMNS * width, channels).squeeze())
    if height < _MIN_SIDE:
        picture = picture.resize([side * (_MIN_SIDE // height) for side in picture.size], Image.Resampling.NEAREST)
    content = io.BytesIO()
    picture.save(content, "PNG")
    atomic_write(path, content.getvalue())
