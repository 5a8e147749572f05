"""The temperature against a grid, and the calibration error against cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from export.temperature import calibration_error, fit_temperature


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_temperature_that_the_labels_were_drawn_with_is_found(true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 6, generator=generator) * 3
    labels = torch.multinomial((logits / true).softmax(1), 1, generator=generator)[:, 0]
    found = fit_temperature(logits.numpy(), labels.numpy())
    assert found == pytest.approx(true, rel=0.05)
    losses = {scale: float(F.cross_entropy(logits / (found * scale), labels)) for scale in (0.97, 1.0, 1.03)}
    assert min(losses, key=lambda scale: losses[scale]) == 1.0


def test_certain_labels_give_a_finite_temperature() -> None:
    logits = np.eye(3, dtype=np.float32)
    assert 0 < fit_temperature(logits, np.arange(3)) < 1
    assert fit_temperature(logits, np.asarray([1, 2, 0])) > 1


def test_calibration_error_by_hand() -> None:
    """Four of confidence 0.9 of which two are right, six of 0.6 of which all are: 0.4 * 0.4 + 0.6 * 0.4."""
    probabilities = np.asarray([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 6, np.float32)
    labels = np.asarray([0, 0, 1, 1] + [0] * 6)
    assert calibration_error(probabilities, labels) == pytest.approx(0.4, abs=1e-6)
    assert calibration_error(np.asarray([[1.0, 0.0]], np.float32), np.asarray([0])) == 0
