"""The classifier of new classes: the minimum of a convex function, found from the features of a trained network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.architectures import build
from models.artifact.manifest import Architecture
from models.data import ArrayDataset
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint
from models.training.evaluate import evaluate
from models.training.recipe import Recipe
from models.training.transfer import new_classifier
from models.training.transfer.new_classifier import choose_classifier, fit_logistic_regression

CPU = torch.device("cpu")
RECIPE = Recipe("tiny", crop_padding=0, flip=False)
PREPROCESS = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)


def brightness(count: int = 120) -> ArrayDataset:
    """Three classes that any features tell apart: dark, grey and bright noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = rng.integers(0, 60, (count, 16, 16, 3)) + 90 * labels[:, None, None, None]
    return ArrayDataset("brightness", ("dark", "grey", "bright"), labels, images.astype(np.uint8))


def initial(labels: tuple[str, ...]) -> Checkpoint:
    torch.manual_seed(3)
    return Checkpoint(
        Architecture(name="tiny", num_classes=len(labels)), labels, PREPROCESS, build("tiny", len(labels)).state_dict()
    )


@pytest.mark.parametrize("regularisation", [0.01, 0.1, 1.0])
def test_gradient_is_zero_at_the_classifier(regularisation: float) -> None:
    """The function is convex, so its gradient is zero at the minimum only. One feature is constant."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10, 0.1, 3, 0]) + 2
    features[:, 1] += 8 * labels
    weight, bias = fit_logistic_regression(features, labels, 3, regularisation)
    assert torch.equal(weight[:, 4], torch.zeros(3, dtype=torch.float64))
    weight.requires_grad_()
    bias.requires_grad_()
    deviation = features.std(0, correction=0)
    penalty = (weight * deviation).square().sum() / 2
    loss = F.cross_entropy(features @ weight.T + bias, labels) + regularisation * penalty
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and bias.grad is not None
    assert float((weight.grad[:, :4] / deviation[:4]).abs().max()) < 1e-4
    assert float(bias.grad.abs().max()) < 1e-4


def test_new_classes_are_told_apart_before_the_first_step() -> None:
    begin, data = initial(("cat", "dog")), brightness()
    fitted = choose_classifier(begin, data, RECIPE, PREPROCESS, CPU)
    assert fitted.labels == data.classes
    assert fitted.architecture.num_classes == 3
    assert evaluate(fitted.model(), data, PREPROCESS).top1 > 0.95
    trunk = {key for key in begin.weights if not key.startswith("classifier.")}
    assert all(torch.equal(fitted.weights[key], begin.weights[key]) for key in trunk)


def test_classifier_is_kept_for_the_same_classes_or_if_the_recipe_says_so() -> None:
    data = brightness()
    same, other = initial(data.classes), initial(("cat", "dog"))
    assert choose_classifier(same, data, RECIPE, PREPROCESS, CPU) is same
    assert choose_classifier(other, data, replace(RECIPE, new_classifier="random"), PREPROCESS, CPU) is other


@pytest.mark.parametrize("fixres_epochs", [0, 1])
def test_all_passes_are_augmented(fixres_epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 images are read many times for a classifier, and cut at random, so that few of them are cut alike."""
    fitted_to: list[torch.Tensor] = []

    def fit(features: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        fitted_to.append(features)
        return torch.zeros(3, features.shape[1]), torch.zeros(3)

    monkeypatch.setattr(new_classifier, "fit_logistic_regression", fit)
    recipe = replace(RECIPE, epochs=2, fixres_epochs=fixres_epochs, random_crop=0.35)
    choose_classifier(initial(("cat", "dog")), brightness(24), recipe, PREPROCESS, CPU)
    assert len(fitted_to[0]) >= 20 * 24
    assert len(torch.unique(fitted_to[0], dim=0)) > len(fitted_to[0]) / 2
