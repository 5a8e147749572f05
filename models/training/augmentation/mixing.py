"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): each image of a batch is mixed with another one.

The partner of position 2i is position 2i + 1 and the reverse, so a batch may be divided at any even position. Each
image has its own share; timm calls this the mode "elem".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.training.augmentation.draws import Draws


class Mixture(NamedTuple):
    """How the images of a batch are mixed with their partners; on the device of the images."""

    opacity: Tensor
    """Share of the image's own values in its pixels, float32 [N]: less than 1 for mixup."""
    box: Tensor
    """Top, bottom, left and right of the rectangle that the partner gives, int64 [N, 4]: empty for mixup."""
    share: Tensor
    """Share of the image's own label, float32 [N]."""

    def images(self, images: Tensor) -> Tensor:
        """Mix images, float [N, C, H, W]."""
        height, width = images.shape[2:]
        partners = images[_partners(len(images), images.device)]
        top, bottom, left, right = self.box.T[:, :, None, None, None]
        rows = torch.arange(height, device=images.device)[:, None]
        columns = torch.arange(width, device=images.device)
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        opacity = self.opacity[:, None, None, None]
        return torch.where(inside, partners, partners + opacity * (images - partners))

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """Shares of the classes, float32 [N, classes], by the images' labels, int64 [N]."""
        own = F.one_hot(labels, classes).float()
        share = self.share[:, None]
        return share * own + (1 - share) * own[_partners(len(labels), labels.device)]


def draw_mixture(mixup: float, cutmix: float, size: tuple[int, int], draws: Draws) -> Mixture | None:
    """Draw the mixture of a batch: the share from Beta(alpha, alpha), and the centre of the rectangle.

    Args:
        mixup: alpha; 0 for none.
        cutmix: alpha; 0 for none. With both, each takes half of the images.
        size: height and width of the images in pixels.
        draws: the random numbers of the images.
    """
    if not mixup and not cutmix:
        return None
    kind, y, x = draws.uniform("mixing", 3).T
    cuts = (kind < 0.5) if mixup and cutmix else np.full(len(kind), bool(cutmix))
    share = np.where(cuts, _beta(cutmix, draws), _beta(mixup, draws))
    height, width = size
    side = np.sqrt(1 - share)
    high, wide = (height * side).astype(np.int64), (width * side).astype(np.int64)
    centre_y, centre_x = (y * height).astype(np.int64), (x * width).astype(np.int64)
    top, bottom = np.clip(centre_y - high // 2, 0, height), np.clip(centre_y + (high + 1) // 2, 0, height)
    left, right = np.clip(centre_x - wide // 2, 0, width), np.clip(centre_x + (wide + 1) // 2, 0, width)
    # The rectangle may reach out of the image: its label counts by the area inside.
    area = (bottom - top) * (right - left) / (height * width)
    box = np.where(cuts[:, None], np.stack([top, bottom, left, right], 1), 0)
    return Mixture(
        opacity=torch.from_numpy(np.where(cuts, 1.0, share).astype(np.float32)),
        box=torch.from_numpy(box),
        share=torch.from_numpy(np.where(cuts, 1 - area, share).astype(np.float32)),
    )


def _beta(alpha: float, draws: Draws) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A number of Beta(alpha, alpha) per image; ones for an alpha of 0."""
    keys = draws.keys(f"beta {alpha}")
    if alpha == 0:
        return np.ones(len(keys))
    return np.array([np.random.Generator(np.random.SFC64(int(key))).beta(alpha, alpha) for key in keys])


def _partners(count: int, device: torch.device) -> Tensor:
    """The position of each position's partner; the last one of an odd number has none but itself."""
    return (torch.arange(count, device=device) ^ 1).clamp(max=count - 1)
