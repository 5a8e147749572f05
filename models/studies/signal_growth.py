"""Variance of activations and gradients through depth at initialisation, against theory (Prince 2024, section 11.4).

A block is W2 relu(n(W1 relu(n(x)))), plus x where it is residual; n is batch normalisation or nothing; W1 and W2 are
square, with independent weights of mean 0 and variance c / width, c = 2 for He's initialisation and 1 for a naive one.
A layer after a ReLU multiplies the mean square by c / 2. So, in expectation over the weights:

                  without normalisation       with
    plain         x (c/2)^2 a block           c/2 after every block
    residual      x 1 + (c/2)^2 a block       + c/2 a block

exact where what goes into a ReLU is as often positive as negative: symmetric weights see to that up to terms of the
order 1 / width. "Mean square" is over units, inputs and weights; the weights' mean is 0, so that it is the variance.

Without normalisation the same factors hold for gradients, from the last block to the first. A normalisation divides the
gradient by the variance over the batch, and of a rectified normal variable this is 1 - 1/pi = rho of the mean square. A
block whose input has the variance V over the batch therefore multiplies the gradient by (c/2) / (rho V), plus 1 where
it is residual. V is 1 for the first block; then (c/2) rho where it is plain, a block of two layers thus multiplying by
1 / rho^2 = 2.15, and 1 + (c/2) rho k where it is residual, after k blocks. This takes the units to be normally
distributed, and holds for wide networks and large batches only. That plain ones explode is in Yang et al. 2019.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from models import palette
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers, StudySettings

NAME = "signal-growth"
TITLE = "Variance of activations and gradients through depth at initialisation, against theory"
NEEDS_DATA = False


class SignalGrowthSettings(StudySettings):
    seeds: PositiveInt = 30
    width: PositiveInt = 512
    blocks: PositiveInt = 25
    images: PositiveInt = 256
    """Inputs, from a normal distribution; also what a batch normalisation sees."""


SETTINGS = SignalGrowthSettings
QUICK = {"seeds": 5, "width": 256}

GAINS = {"He": 2.0, "naive": 1.0}
"""Variance of a weight, times the width."""
CASES = {
    f"{kind}, {init}{', normalised' if normalised else ''}": (kind == "residual", init, normalised)
    for normalised, kind, init in itertools.product((False, True), ("plain", "residual"), GAINS)
}


def split(settings: SignalGrowthSettings, data: Path | None) -> list[Piece]:
    return [
        Piece(name, {"study": NAME, **settings.model_dump()}, functools.partial(_piece, name, settings))
        for name in CASES
    ]


def _piece(name: str, settings: SignalGrowthSettings, _: Path) -> Numbers:
    measured = [measure(*CASES[name], settings, seed) for seed in range(settings.seeds)]
    return {
        kind: np.asarray([row[index] for row in measured]).tolist() for index, kind in enumerate(("signal", "gradient"))
    }


def measure(
    residual: bool, init: str, normalised: bool, settings: SignalGrowthSettings, seed: int
) -> tuple[list[float], list[float]]:
    """Mean squares after 0, 1, ... `blocks` blocks: of the activations, and of a gradient that is 1 after the last."""
    generator = torch.Generator().manual_seed(seed)
    scale = (GAINS[init] / settings.width) ** 0.5

    def layer(x: Tensor) -> Tensor:
        weight = torch.randn(settings.width, settings.width, generator=generator) * scale
        x = F.batch_norm(x, None, None, training=True) if normalised else x
        product: Tensor = x.relu() @ weight
        return product

    x = torch.randn(settings.images, settings.width, generator=generator).requires_grad_()
    stream = [x]
    for _ in range(settings.blocks):
        branch = layer(layer(stream[-1]))
        stream.append(stream[-1] + branch if residual else branch)
    ahead = torch.randn(stream[-1].shape, generator=generator)
    gradients = torch.autograd.grad(stream[-1], stream, ahead)
    return [float(x.detach().square().mean()) for x in stream], [float(g.square().mean()) for g in gradients]


def theory(residual: bool, init: str, normalised: bool, blocks: int) -> dict[str, NDArray[np.floating[Any]]]:
    """Mean squares after 0, 1, ... `blocks` blocks, by the formulas of the module's docstring."""
    half = GAINS[init] / 2
    number = np.arange(blocks + 1)
    if not normalised:
        signal = (float(residual) + half**2) ** number
        return {"signal": signal, "gradient": signal[::-1]}
    signal = 1 + half * number if residual else np.where(number == 0, 1.0, half)
    rho = 1 - 1 / np.pi
    variance = 1 + half * rho * number if residual else np.where(number == 0, 1.0, half * rho)
    factors = float(residual) + half / (rho * variance[:-1])
    return {"signal": signal, "gradient": np.append(np.cumprod(factors[::-1])[::-1], 1.0)}


def growth(values: NDArray[np.floating[Any]], linear: bool) -> float:
    """Per block, over all blocks: the factor, or where growth is linear the step."""
    blocks = len(values) - 1
    return float((values[-1] - values[0]) / blocks if linear else (values[-1] / values[0]) ** (1 / blocks))


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By case: the curves [seeds, blocks + 1], the theory, and the growth per block of both."""
    summary = {}
    for name, curves in results.items():
        residual, init, normalised = CASES[name]
        entry: Numbers = {"growth": {}}
        for kind in ("signal", "gradient"):
            values = np.asarray(curves[kind])
            expected = theory(residual, init, normalised, values.shape[1] - 1)[kind]
            mean = values.mean(0)
            entry[kind] = {
                "mean": [float(f"{value:.5g}") for value in mean],
                "low": [float(f"{value:.5g}") for value in values.min(0)],
                "high": [float(f"{value:.5g}") for value in values.max(0)],
                "theory": [float(f"{value:.5g}") for value in expected],
            }
            if kind == "signal" and normalised and not residual:
                continue  # does not grow
            linear = normalised and kind == "signal"
            # A gradient grows from the last block to the first.
            ends = slice(None, None, 1 if kind == "signal" else -1)
            entry["growth"][kind] = {
                "measured": growth(mean[ends], linear),
                "theory": growth(expected[ends], linear),
                "linear": linear,
                "exact": kind == "signal" or not normalised,
            }
        summary[name] = entry
    return summary


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(2, rows=2, height=6.4)
    styles = {"plain, He": palette.VERMILION, "plain, naive": palette.ORANGE, "residual, He": palette.BLUE,
              "residual, naive": palette.GREEN}  # fmt: skip
    for panel, (kind, normalised) in zip(axes, itertools.product(("signal", "gradient"), (False, True)), strict=True):
        for name, color in styles.items():
            marker = "s" if name == "plain, naive" else "o"
            _curve(panel, numbers[name + (", normalised" if normalised else "")][kind], color, name, marker)
        what = "activations" if kind == "signal" else "gradients"
        panel.set(title=f"{what}, {'batch normalisation' if normalised else 'no normalisation'}", xlabel="block")
        panel.set_ylabel("mean square")
        panel.set_yscale("linear" if normalised and kind == "signal" else "log")
        panel.plot([], [], color="black", linewidth=0.9, label="theory")
        panel.legend(fontsize=7.5)
    return figure


def _curve(panel: Axes, curve: Numbers, color: str, label: str, marker: str) -> None:
    mean = np.asarray(curve["mean"])
    spread = np.abs(np.asarray([curve["low"], curve["high"]]) - mean)
    # Hollow squares let a dot beneath them be seen.
    fill = "none" if marker == "s" else color
    panel.errorbar(
        np.arange(len(mean)), mean, spread, fmt=marker, mfc=fill, markersize=4, elinewidth=0.8, color=color, label=label
    )
    panel.plot(curve["theory"], color="black", linewidth=0.9, zorder=3)
