"""The reference of the page's studies gives the numbers of PyTorch's autograd in the studies' own networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.blocks import ConvShape, LinearJoinBlock, PostActivationBlock, PreActivationBlock
from models.studies import shattered_gradients as shattered_study
from models.studies import signal_growth as growth_study
from models.studies.live import COMPUTE
from models.studies.live.finite_step import POINTS, Step
from models.studies.live.generator import RandomTensors
from models.studies.live.layers import GAINS
from models.studies.live.network import EARLY, Network
from models.studies.live.order_of_operations import IMAGES as ORDER_IMAGES
from models.studies.live.order_of_operations import measure as measure_order
from models.studies.live.shattered_gradients import gradient_of
from models.studies.live.signal_growth import IMAGES, measure
from models.studies.order_of_operations import ORDERS, ReluBeforeAddBlock

WIDTH = 12
SETTINGS: dict[str, dict[str, Any]] = {
    "shattered-gradients": {"layers": 6, "init": "he", "beta": 1.0, "normalised": False},
    "signal-growth": {"blocks": 3, "init": "naive", "normalised": True},
    "order-of-operations": {"blocks": 3, "normalised": True},
    "finite-step": {"layers": 6, "beta": 1.0, "normalised": True, "longest": -3},
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The studies' networks get the numbers of seed 5 of the live generator, in float64."""
    draws = RandomTensors(5)

    def randn(*shape: int | torch.Size, generator: torch.Generator, dtype: Any = None) -> Tensor:
        sizes = shape[0] if isinstance(shape[0], torch.Size) else shape
        return torch.from_numpy(draws.normal(*(int(str(size)) for size in sizes)))

    monkeypatch.setattr(torch, "randn", randn)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("network", ["plain", "plain, normalised", "residual"])
def test_gradients_are_those_of_the_study(network: str) -> None:
    x = torch.linspace(-2, 2, 64, dtype=torch.float64).requires_grad_()
    generator = torch.Generator()
    if network == "residual":
        output = shattered_study.residual(x, WIDTH, 9, 0.5, generator)
    else:
        output = shattered_study.plain(x, WIDTH, 9, generator, normalised=network != "plain")
    expected = torch.autograd.grad(output.sum(), x)[0].numpy()
    found = gradient_of(
        network == "residual", x.detach().numpy(), 9, WIDTH, GAINS["he"], 0.5, network != "plain", RandomTensors(5)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_signals_are_those_of_the_study(residual: bool, normalised: bool) -> None:
    settings = growth_study.SignalGrowthSettings(width=WIDTH, blocks=4, images=IMAGES)
    expected = growth_study.measure(residual, "naive", normalised, settings, 0)
    found = measure(residual, 4, WIDTH, GAINS["naive"], normalised, RandomTensors(5))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_streams_are_those_of_the_blocks(order: str) -> None:
    """A block of 1 x 1 convolutions on one pixel is fully connected."""
    kinds = {
        "ReLU before addition": ReluBeforeAddBlock,
        "post-activation": PostActivationBlock,
        "linear join": LinearJoinBlock,
        "pre-activation": PreActivationBlock,
    }
    draws = RandomTensors(5)
    stream = torch.from_numpy(draws.normal(ORDER_IMAGES, WIDTH))[..., None, None]
    stream = stream if order == "pre-activation" else stream.relu()
    expected = []
    for _ in range(4):
        shapes = (ConvShape(1, WIDTH), ConvShape(1, WIDTH))
        block = kinds[order](WIDTH, shapes, "A", nn.BatchNorm2d, first=False).double().train()
        for convolution in (module for module in block.modules() if isinstance(module, nn.Conv2d)):
            weight = torch.from_numpy(draws.normal(WIDTH, WIDTH)).T * (2 / WIDTH) ** 0.5
            convolution.weight.data = weight[..., None, None]
        with torch.no_grad():
            stream = block(stream)
        expected.append(float(stream.mean()))
    means, lowered = measure_order(order, 4, WIDTH, True, RandomTensors(5))
    np.testing.assert_allclose(means, expected, rtol=1e-9, atol=1e-12)
    assert (lowered == 0).all() if order == "ReLU before addition" else (lowered > 0.2).all()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_slope_and_loss_of_a_step_are_those_of_autograd(residual: bool, normalised: bool) -> None:
    draws = RandomTensors(5)
    weights, biases = [], []
    for inputs, units in ((1, WIDTH), *((WIDTH, WIDTH) for _ in range(5)), (WIDTH, 1)):
        scale = (2 / inputs) ** 0.5
        weights.append((torch.from_numpy(draws.normal(inputs, units)) * scale).requires_grad_())
        biases.append(torch.from_numpy(draws.normal(units)) * scale)
    x = torch.linspace(-2, 2, POINTS, dtype=torch.float64)

    def loss(weights: list[Tensor]) -> Tensor:
        normal = (lambda z: F.batch_norm(z, None, None, training=True)) if normalised else (lambda z: z)
        stream = (x[:, None] @ weights[0] + biases[0]).relu() @ weights[1] + biases[1]
        for weight, bias in list(zip(weights, biases, strict=True))[2:-1]:
            branch = normal(stream).relu() @ weight + bias
            stream = stream + 0.5 * branch if residual else branch
        output = (normal(stream).relu() @ weights[-1] + biases[-1])[:, 0]
        return F.mse_loss(output, (torch.pi * x).sin()) / 2

    before = loss(weights)
    gradients = torch.autograd.grad(before, weights[:EARLY])
    norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    length = float(torch.cat([weight.detach().flatten() for weight in weights[:EARLY]]).norm())
    moved = [weight - 0.01 * length / norm * each for weight, each in zip(weights, gradients, strict=False)]
    step = Step(Network(residual, 7, WIDTH, 0.5, normalised, RandomTensors(5)))
    assert step.before == pytest.approx(before.item(), rel=1e-9)
    assert step.slope == pytest.approx(norm * length, rel=1e-9)
    assert step.loss(0.01) == pytest.approx(loss([*moved, *weights[EARLY:]]).item(), rel=1e-7)


@pytest.mark.parametrize("study", COMPUTE)
def test_bands_hold_the_line_and_seeds_follow_the_first(study: str) -> None:
    def compute(first: int, seeds: int) -> Any:
        return COMPUTE[study](**SETTINGS[study], width=WIDTH, seeds=seeds, first=first)

    both, single = compute(3, 2), [compute(3, 1), compute(4, 1)]
    for chart, curves in both.items():
        for name, curve in curves.items():
            if "low" not in curve:
                continue
            assert curve["x"].shape == curve["y"].shape
            assert (curve["low"] <= curve["y"]).all() and (curve["y"] <= curve["high"]).all()
            parts = [each[chart][name]["y"] for each in single]
            np.testing.assert_allclose(curve["y"], np.mean(parts, axis=0), rtol=1e-9, atol=1e-12)
