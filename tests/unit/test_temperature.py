"""The temperature against a grid, and the calibration error against cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from export.temperature import MIN_ERRORS, calibration_error, choose_temperature, fit_temperature


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_temperature_that_the_labels_were_drawn_with_is_found(true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 6, generator=generator) * 3
    labels = torch.multinomial((logits / true).softmax(1), 1, generator=generator)[:, 0]
    found = fit_temperature(logits.numpy(), labels.numpy())
    assert found == pytest.approx(true, rel=0.05)
    losses = {scale: float(F.cross_entropy(logits / (found * scale), labels)) for scale in (0.97, 1.0, 1.03)}
    assert min(losses, key=lambda scale: losses[scale]) == 1.0


@pytest.mark.parametrize(
    ("images", "errors", "expected"),
    [
        (2000, 0, 1.0),
        (2000, MIN_ERRORS - 1, 1.0),
        (30, 1, 1.0),
        (2000, MIN_ERRORS, None),
        (2000, 1500, None),
        (3, 3, None),
    ],
)
def test_only_errors_justify_higher_probabilities(images: int, errors: int, expected: float | None) -> None:
    """None: the likeliest temperature. The network has a confidence of 0.7, whether it is right or wrong."""
    logits = np.tile(np.log(np.asarray([0.7, 0.2, 0.1], np.float32)), (images, 1))
    labels = np.zeros(images, np.int64)
    labels[:errors] = 1
    temperature, fit = choose_temperature(logits, labels, "images")
    assert fit is not None
    assert (fit.images, fit.errors, fit.likeliest) == (images, errors, fit_temperature(logits, labels))
    assert temperature == (fit.likeliest if expected is None else expected)
    assert 0.05 <= fit.likeliest <= 20


def test_calibration_error_by_hand() -> None:
    """Four of confidence 0.9 of which two are right, six of 0.6 of which all are: 0.4 * 0.4 + 0.6 * 0.4."""
    probabilities = np.asarray([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 6, np.float32)
    labels = np.asarray([0, 0, 1, 1] + [0] * 6)
    assert calibration_error(probabilities, labels) == pytest.approx(0.4, abs=1e-6)
    assert calibration_error(np.asarray([[1.0, 0.0]], np.float32), np.asarray([0])) == 0
