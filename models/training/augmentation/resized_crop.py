"""Random resized crop of photographs (Szegedy et al. 2015), as in torchvision's `RandomResizedCrop`."""

from __future__ import annotations

import math
from typing import NamedTuple

from PIL import Image

from models.training.augmentation.draws import FloatArray

TRIES = 10
DRAWS = 4 * TRIES
_ASPECTS = (3 / 4, 4 / 3)


class Box(NamedTuple):
    """A part of an image in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def random_box(width: int, height: int, min_area: float, draws: FloatArray) -> Box:
    """A part of `min_area` to all of the area, with an aspect of 3/4 to 4/3, uniform in its logarithm.

    Draws: area, aspect, top and left of each try, float64 [DRAWS]. If no try fits into the image, the largest part in
    the middle with an aspect in the range.
    """
    low, high = (math.log(aspect) for aspect in _ASPECTS)
    for area, aspect, top, left in draws.reshape(TRIES, 4).tolist():
        target = width * height * (min_area + area * (1 - min_area))
        ratio = math.exp(low + aspect * (high - low))
        wide, high_ = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < wide <= width and 0 < high_ <= height:
            x, y = int(left * (width - wide + 1)), int(top * (height - high_ + 1))
            return Box(x, y, x + wide, y + high_)
    wide, high_ = width, height
    if width / height < _ASPECTS[0]:
        high_ = round(width / _ASPECTS[0])
    elif width / height > _ASPECTS[1]:
        wide = round(height * _ASPECTS[1])
    x, y = (width - wide) // 2, (height - high_) // 2
    return Box(x, y, x + wide, y + high_)


def random_resized_crop(image: Image.Image, size: tuple[int, int], min_area: float, draws: FloatArray) -> Image.Image:
    """A random part of an image, resized to `size` = (height, width)."""
    # Cut, then resized: `resize` with a box would mix pixels beside the box into its edges.
    part = image.crop(random_box(*image.size, min_area, draws))
    return part.resize(size[::-1], Image.Resampling.BILINEAR)
