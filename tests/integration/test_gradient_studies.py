"""The studies of gradients: Prince's notebook 11.1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.studies import why_11_1_failed


@pytest.mark.parametrize(
    "changes",
    [{}, {"centred": True}, {"centred": True, "scaled": True}, {"gain": 2.0, "later_biases": False, "reach": 20.0}],
    ids=str,
)
def test_gradient_of_the_notebook_equals_pytorchs(changes: dict[str, Any]) -> None:
    """Means and deviations over the inputs are constants to the gradient."""
    setting = why_11_1_failed.Setting(hidden_layers=3, **changes)
    random = np.random.RandomState(7)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.normal(size=shape) * np.sqrt(setting.gain / 20))

    first, last, first_bias, _ = drawn(20, 1), drawn(1, 20), drawn(20, 1), drawn(1, 1)
    x = torch.arange(-setting.reach, setting.reach, setting.reach / 16, dtype=torch.float64)[None].requires_grad_()
    hidden = (first @ x + first_bias).relu()
    for _ in range(2):
        inputs = drawn(20, 20) @ hidden
        bias = drawn(20, 1)
        inputs = inputs + bias if setting.later_biases else inputs
        mean, deviation = (
            value.detach() for value in (inputs.mean(1, True), inputs.std(1, correction=0, keepdim=True))
        )
        inputs = inputs - mean if setting.centred else inputs
        hidden = (inputs / deviation if setting.scaled else inputs).relu()
    (expected,) = torch.autograd.grad((last @ hidden).sum(), x)
    gradient, switching = why_11_1_failed.measure(setting, width=20, seed=7, points=32)
    np.testing.assert_allclose(gradient, expected[0].numpy(), rtol=1e-7, atol=1e-9)
    some = (hidden > 0).any(1) & (hidden == 0).any(1)
    assert switching[-1] == pytest.approx(float(some.double().mean()))


@pytest.mark.slow
def test_mean_centring_alone_shatters_the_gradient_of_the_notebook() -> None:
    def correlation(**changes: Any) -> float:
        gradient, _ = why_11_1_failed.measure(why_11_1_failed.Setting(**changes), width=200, seed=1)
        full = np.correlate(gradient, gradient, "same")
        return float(full[130] / full[128])

    assert correlation() > 0.9
    assert abs(correlation(centred=True)) < 0.1
