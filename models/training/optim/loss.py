"""The loss of each image, for hard labels and for labels of mixed images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.training.recipe import LossKind


def image_losses(
    logits: Tensor, targets: Tensor, kind: LossKind, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """The loss of each image, float32 [N].

    Args:
        logits: float32 [N, classes].
        targets: shares of the classes, float32 [N, classes], rows with the sum 1.
        kind: cross-entropy, or the mean of the classes' binary cross-entropies (Wightman et al. 2021).
        smoothing: share of each label that all classes get (Szegedy et al. 2016).
        weights: factor of each class, float32 [classes].
    """
    targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
    if kind == "bce":
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (losses if weights is None else losses * weights).mean(1)
    losses = -targets * logits.log_softmax(1)
    return (losses if weights is None else losses * weights).sum(1)


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """A factor for each class, float32 [classes], for which all classes count the same; their mean over images is 1."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(weights.astype(np.float32))
