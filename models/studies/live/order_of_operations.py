"""Order of operations: the values between the blocks of fresh networks, for four orders of ReLU and addition.

The blocks are those of `models.studies.order_of_operations`, with two fully connected layers for the convolutions. A
network draws the inputs, and then the two weights of each block; all four have the same weights.
"""

from __future__ import annotations

import numpy as np

from models.studies.live.curves import Charts, band
from models.studies.live.generator import RandomTensors
from models.studies.live.layers import Array, normalise, relu
from models.studies.order_of_operations import ORDERS

IMAGES = 128


def compute(*, blocks: int, width: int, normalised: bool, seeds: int, first: int) -> Charts:
    """The mean of each block's output, and the share of negative values among those that its branch adds."""
    charts: Charts = {"mean": {}, "lowered": {}}
    for order in ORDERS:
        rows = [measure(order, blocks, width, normalised, RandomTensors(seed)) for seed in range(first, first + seeds)]
        for index, chart in enumerate(charts):
            charts[chart][order] = band(np.arange(1, blocks + 1), [row[index] for row in rows], "range")
    # A normalised, rectified unit adds the mean of a rectified normal variable.
    means = charts["mean"]["ReLU before addition"]
    means["theory"] = (means["x"] + 1) / np.sqrt(2 * np.pi) if normalised else np.empty(0)
    return charts


def measure(order: str, blocks: int, width: int, normalised: bool, draws: RandomTensors) -> tuple[Array, Array]:
    """By block: the mean of its output, and the share of negative values of its branch."""

    def normal(x: Array) -> Array:
        return normalise(x, normalised).values

    scale = np.sqrt(2 / width)
    stream = draws.normal(IMAGES, width)
    if order != "pre-activation":
        stream = relu(stream)
    means, lowered = [], []
    for _ in range(blocks):
        first, second = (draws.normal(width, width) * scale for _ in range(2))
        if order == "pre-activation":
            branch = relu(normal(relu(normal(stream)) @ first)) @ second
            stream = stream + branch
        else:
            joined = normal(stream @ first)
            branch = normal(relu(joined) @ second)
            if order == "ReLU before addition":
                branch = relu(branch)
                stream = stream + branch
            else:
                stream = relu(branch + (joined if order == "linear join" else stream))
        means.append(stream.mean())
        lowered.append((branch < 0).mean())
    return np.asarray(means), np.asarray(lowered)
