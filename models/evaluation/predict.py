"""Probabilities of one or several networks for all images of a data set, in bounded memory."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.architectures import ResNet
from models.artifact.parity import Float32Array
from models.data import Dataset
from models.evaluation.views import Views
from models.imaging.preprocess import Preprocess, UInt8Array
from models.progress import progress_bar
from models.training.device import best_device
from models.training.evaluate import normalise, predict

_BATCH = 64
_PIXELS = _BATCH * 224 * 224
"""Most pixels of a batch: views at a large scale come in smaller batches."""


def predict_probabilities(model: ResNet, data: Dataset, preprocess: Preprocess, views: Views) -> Float32Array:
    """Probabilities, float32 [n, classes]: the mean of those of all views of an image.

    Krizhevsky et al. (2012, section 4.1) average the softmax of ten crops, Simonyan and Zisserman (2015, section 3.2)
    that of an image and its mirror, and of scales. Logits are averaged only over positions within a view.

    Raises:
        ViewsError: the views cannot be made of this geometry.
        DataError: an image cannot be read or decoded.
    """
    views.check(preprocess)
    model = model.to(best_device()).eval()
    found = np.empty((len(data.labels), len(data.classes)), np.float32)
    with (
        progress_bar("evaluating", total=len(found)) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for first in range(0, len(found), _BATCH):
            indices = np.arange(first, min(first + _BATCH, len(found)))
            if views == Views():
                found[indices] = predict(model, data.images(indices), preprocess).softmax(1).cpu().numpy()
            else:
                seen = pool.map(lambda index: views.of(data.image(int(index)), preprocess), indices)
                found[indices] = _mean_of_views(model, list(seen), preprocess)
            progress.update(int(indices[-1]) + 1)
    return found


def _mean_of_views(model: ResNet, seen: Sequence[Sequence[UInt8Array]], preprocess: Preprocess) -> Float32Array:
    """Mean probabilities, float32 [n, classes], of the views of n images. Views of one size share a batch."""
    groups = defaultdict[tuple[int, ...], list[tuple[int, UInt8Array]]](list)
    for row, of_image in enumerate(seen):
        for view in of_image:
            groups[view.shape].append((row, view))
    total = torch.zeros(len(seen), model.classifier.out_features)
    for (height, width, _), group in groups.items():
        size = max(1, _PIXELS // (height * width))
        for first in range(0, len(group), size):
            rows, images = zip(*group[first : first + size], strict=True)
            probabilities = score(model, np.stack(images), preprocess).softmax(1).cpu()
            total.index_add_(0, torch.tensor(rows), probabilities)
    return np.asarray((total / len(seen[0])).numpy(), np.float32)


def score(model: ResNet, images: UInt8Array, preprocess: Preprocess) -> Tensor:
    """Logits, float32 [N, classes], of images of any size, the network being applied fully convolutionally.

    The pool of the training size slides over the feature map, the classifier is applied at each place, and its scores
    are averaged over the places (He et al. 2016a, section 3.4; Simonyan and Zisserman 2015, section 3.2). The
    classifier is linear, so the pooled features are averaged instead. At the training size it is the network itself.
    """
    window = _feature_map_size(model, preprocess)
    with torch.inference_mode():
        features = model.features(normalise(_tensor(model, images), preprocess))
        pooled = F.avg_pool2d(features, window, 1)
        return model.classifier(pooled.mean((2, 3))).float()  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1)
def _feature_map_size(model: ResNet, preprocess: Preprocess) -> tuple[int, int]:
    """Height and width of the feature map at the size of the training; found by a run, for stems differ."""
    with torch.inference_mode():
        height, width = model.features(_tensor(model, np.zeros((1, *preprocess.shape), np.uint8)).float()).shape[2:]
    return height, width


def _tensor(model: ResNet, images: UInt8Array) -> Tensor:
    """Images, uint8 [N, H, W, C], as a tensor [N, C, H, W] on the device of a model."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(next(model.parameters()).device)
