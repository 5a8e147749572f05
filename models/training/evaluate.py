"""Accuracy of a network on a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.architectures import ResNet
from models.data import Dataset
from models.imaging.preprocess import Preprocess
from models.progress import progress_bar
from models.training.distributed.processes import ALONE, Processes

_MAX_BATCH = 256
_BATCH_PIXELS = 64 * 224 * 224
"""Most pixels in a batch: a ResNet-50 takes about a gigabyte for them."""


@dataclass(frozen=True)
class EvaluationReport:
    """Accuracy on a data set."""

    confusion: NDArray[np.int64]
    """Number of images by [true class, predicted class]."""
    top5_correct: int

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        return float(np.trace(self.confusion) / self.images)

    @property
    def top5(self) -> float:
        return self.top5_correct / self.images

    @property
    def per_class(self) -> NDArray[np.float64]:
        """Top-1 accuracy of each class, float64 [classes]."""
        return np.asarray(np.diag(self.confusion) / np.maximum(self.confusion.sum(1), 1), dtype=np.float64)


def normaliser(preprocess: Preprocess, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function that normalises uint8 images [N, C, H, W] to float32 with mean 0 and deviation 1 over the data set.

    Its constants are on the device already: copying them for each batch would wait for a GPU.
    """
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return lambda images: (images.float() / 255.0 - mean) / std


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Normalise uint8 images once, as `normaliser` does."""
    return normaliser(preprocess, images.device)(images)


def predict(model: ResNet, images: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """Logits, float32 [N, classes], of images, uint8 [N, H, W, C], in evaluation mode."""
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(model.parameters()).device)
    was_training = model.training
    with torch.inference_mode():
        logits = model.eval()(normalise(inputs, preprocess))
    model.train(was_training)
    return logits.float()  # type: ignore[no-any-return]


def evaluate(model: ResNet, data: Dataset, preprocess: Preprocess, processes: Processes = ALONE) -> EvaluationReport:
    """The accuracy of a network, in float32, over all images. Each process computes every n-th batch."""
    labels = data.labels
    height, width = preprocess.size
    batch_size = min(_MAX_BATCH, max(1, _BATCH_PIXELS // (height * width)))
    classes = len(data.classes)
    confusion = np.zeros((classes, classes), np.int64)
    top5_correct = 0
    with progress_bar("evaluating", total=len(labels)) as progress:
        for first in range(processes.rank * batch_size, len(labels), processes.count * batch_size):
            indices = np.arange(first, min(first + batch_size, len(labels)))
            logits = predict(model, data.images(indices), preprocess)
            best = logits.topk(min(5, classes), dim=1).indices.cpu().numpy()
            np.add.at(confusion, (labels[indices], best[:, 0]), 1)
            top5_correct += int((best == labels[indices, None]).sum())
            progress.update(int(indices[-1]) + 1)
    processes.add(torch.from_numpy(confusion))
    return EvaluationReport(confusion, int(processes.add(torch.tensor(top5_correct))))
