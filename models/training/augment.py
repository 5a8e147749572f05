"""Random augmentation of batches of training images, uint8 tensors [N, C, H, W].

The random numbers come from the generator in the arguments, so a resumed run draws the same ones.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def random_crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Shift each image by up to `padding` pixels each way and fill with zeros (He et al. 2016a, section 4.2)."""
    if padding == 0:
        return images
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    batch = torch.arange(count)[:, None, None]
    # Indexing with broadcast index tensors puts the channels last.
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror half of the images left to right."""
    flips = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flips, images.flip(3), images)


def random_erasing(images: Tensor, probability: float, fill: Tensor, generator: Generator) -> Tensor:
    """Fill a random rectangle, 2-33 % of the area, aspect 0.3-3.3, with `fill` [C, 1, 1] (Zhong et al. 2020)."""
    if probability == 0:
        return images
    count, _, height, width = images.shape
    chosen, area, aspect, top, left = torch.rand(5, count, 1, 1, 1, generator=generator)
    area = (0.02 + area * 0.31) * height * width
    aspect = (0.3 * torch.exp(aspect * torch.log(torch.tensor(3.3 / 0.3)))).sqrt()
    box_height, box_width = (area.sqrt() * aspect).clamp(max=height), (area.sqrt() / aspect).clamp(max=width)
    top, left = (top * (height - box_height + 1)).floor(), (left * (width - box_width + 1)).floor()
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    inside = (rows >= top) & (rows < top + box_height) & (columns >= left) & (columns < left + box_width)
    return torch.where(inside & (chosen < probability), fill, images)
