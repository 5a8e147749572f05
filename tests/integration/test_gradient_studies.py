"""The studies of gradients: Prince's notebook 11.1, and batch normalisation."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import architectures
from models.studies import normalisation, why_11_1_failed


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


def test_fresh_skipinit_block_is_its_shortcut() -> None:
    torch.manual_seed(0)
    with patch.dict(architectures.VARIANTS):
        normalisation.add_skipinit()
        model = architectures.build("skipinit-resnet20", 3, 1, norm="none")
    x = torch.randn(2, 16, 8, 8)
    block, _, _, down, *_ = (block for stage in model.stages for block in stage.children())
    torch.testing.assert_close(block(x), x.relu())
    torch.testing.assert_close(down(x), F.pad(x[:, :, ::2, ::2].relu(), (0, 0, 0, 0, 0, 16)))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_signal_and_gradient_of_every_block(norm: str) -> None:
    """Against a network that is run block by block."""
    torch.manual_seed(0)
    model = architectures.build("tiny", 3, 1, norm=norm)
    inputs, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2] * 2)
    numbers = normalisation.measure(model, inputs, labels)
    stream = [model.stem(inputs).relu()]
    for stage in model.stages:
        stream.append(stage(stream[-1]))
    loss = F.cross_entropy(model.classifier(stream[-1].mean((2, 3))), labels)
    for x, own, gradient in zip(stream, numbers["signal"], numbers["gradient"], strict=True):
        (expected,) = torch.autograd.grad(6 * loss, x, retain_graph=True)
        assert own == pytest.approx(float(x.detach().square().mean()), rel=1e-4)
        assert gradient == pytest.approx(float(expected.square().sum((1, 2, 3)).mean()), rel=1e-4)
