"""A classifier for new classes, fitted to the features of a trained network before training changes the network.

A random classifier sends large, meaningless gradients into the network in its first steps, which spoil the features.
Kumar et al. (2022), "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", fit the
classifier first, and then train both.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.artifact.manifest import Architecture
from models.console import console
from models.data import Dataset
from models.imaging.preprocess import Preprocess
from models.progress import progress_bar
from models.training.augmentation.pipeline import Pipeline
from models.training.checkpoint import Checkpoint
from models.training.evaluate import normalise
from models.training.input.sampling import plan_epoch
from models.training.recipe import Recipe

_IMAGES, _IMAGES_PER_CLASS = 4_000, 20
"""Number of augmented images that a classifier is fitted to: the larger one of the first, and the second times the
number of classes. With 10 classes of 20 images each, 1,000 gave 71.5 to 72.8 %, and 4,000 gave 71.3 to 73.8 %."""
_MOST_CLASSES = 1_000
"""For more, a classifier begins with random weights: fitting it would take gigabytes."""
_HISTORY_BYTES = 10**9
_BATCH = 64
_REGULARISATION = 0.01
"""Weight of the squared weights, for features of variance 1, beside the mean loss."""


def choose_classifier(
    initial: Checkpoint, training: Dataset, recipe: Recipe, preprocess: Preprocess, device: torch.device
) -> Checkpoint:
    """The checkpoint with a classifier fitted to the training images, if the classes differ and the recipe says so.

    Raises:
        DataError: an image cannot be read or decoded.
    """
    kept = training.classes == initial.labels
    fitted = recipe.new_classifier == "fitted" and len(training.classes) <= _MOST_CLASSES
    new = f"{'new' if fitted else 'new random'} classifier for {len(training.classes):,} classes"
    known = initial.architecture
    text = f"begins with the weights of {known.name}: {'classifier kept' if kept else new}"
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    if kept or not fitted:
        return initial
    features, labels = _features(initial, training, recipe, preprocess, device)
    weight, bias = fit_logistic_regression(features, labels, len(training.classes), _REGULARISATION)
    weights = {**initial.weights, "classifier.weight": weight.float(), "classifier.bias": bias.float()}
    architecture = Architecture(
        name=known.name, num_classes=len(training.classes), in_channels=known.in_channels, options=known.options
    )
    return replace(initial, architecture=architecture, labels=training.classes, weights=weights)


def fit_logistic_regression(
    features: Tensor, labels: Tensor, classes: int, regularisation: float
) -> tuple[Tensor, Tensor]:
    """Weight [classes, features] and bias [classes] of the minimum of the mean cross-entropy and the squared weights.

    Args:
        features: float64 [N, features].
        labels: int64 [N].
        classes: number of classes.
        regularisation: factor of half the sum of the squared weights, which belong to features of variance 1.
    """
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation = torch.where(deviation > 1e-9, deviation, 1.0)  # a feature that is always 0 gets no weight
    inputs = (features - mean) / deviation
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    # The method keeps two values per weight for each of its last steps.
    history = max(5, min(100, _HISTORY_BYTES // (16 * weight.numel())))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-6, history_size=history, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(inputs @ weight.T + bias, labels) + regularisation / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    scaled = (weight / deviation).detach()
    return scaled, bias.detach() - scaled @ mean


def _features(
    initial: Checkpoint, training: Dataset, recipe: Recipe, preprocess: Preprocess, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features float64 [N, features] and labels int64 [N] of training images, on the CPU.

    All passes over the images are augmented, also if they are more than the epochs of the recipe.
    """
    model = initial.model().to(device)
    total = max(_IMAGES, _IMAGES_PER_CLASS * len(training.classes))
    passes = math.ceil(total / len(training.labels))
    epochs = max(recipe.epochs, passes + recipe.fixres_epochs)
    plain = replace(
        recipe, epochs=epochs, batch_size=_BATCH, mixup=0.0, cutmix=0.0, repeats=1, balance="none", accumulate=1
    )
    pipeline = Pipeline(training, plain, preprocess)
    features: list[Tensor] = []
    labels: list[Tensor] = []
    done = 0
    plans = (plan for epoch in itertools.count() for plan in plan_epoch(training.labels, plain, epoch))
    with progress_bar("fitting the classifier", total=total) as progress, torch.inference_mode():
        while done < total:
            batch = pipeline.read(next(plans))
            outputs = model.features(normalise(batch.images.to(device), preprocess))
            features.append(outputs.mean((2, 3)).double().cpu())
            labels.append(batch.labels)
            done += len(batch.labels)
            progress.update(min(done, total))
    return torch.cat(features).clone(), torch.cat(labels).clone()
