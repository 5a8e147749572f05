"""The order of ReLU and addition: an addition after a ReLU can only increase the values on the shortcut.

Four residual blocks (Prince 2024, Fig. 11.5; He et al. 2016b, Fig. 4), compared by the values between their blocks, at
initialisation and trained, and by accuracy.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from models import architectures, palette
from models.architectures import VARIANTS, ResNet
from models.architectures.blocks import PostActivationBlock
from models.data import ArrayDataset
from models.imaging.preprocess import Preprocess
from models.studies import figures
from models.studies.pieces import Piece
from models.studies.study import Numbers
from models.studies.training import CHECKPOINT, TrainingSettings, images, training
from models.training import checkpoint
from models.training.device import best_device
from models.training.evaluate import normalise
from models.training.input.splits import measure_preprocess

NAME = "order-of-operations"
TITLE = "Post-activation, linear-join, pre-activation and ReLU-before-addition blocks"
NEEDS_DATA = True
SETTINGS = TrainingSettings
QUICK = {"seeds": 1, "epochs": 2, "train_images": 1_000, "test_images": 500, "size": 14, "batch_size": 64}

ORDERS = {
    "ReLU before addition": "relu-before-add-resnet",
    "post-activation": "resnet",
    "linear join": "linear-join-resnet",
    "pre-activation": "preact-resnet",
}
"""Names of the architectures, less the number of layers."""
COLORS = (palette.VERMILION, palette.BLUE, palette.PURPLE, palette.GREEN)
TRAINED_LAYERS, FRESH_LAYERS = 20, 56

_STATISTICS_IMAGES = 256


class ReluBeforeAddBlock(PostActivationBlock):
    """y = shortcut(x) + relu(F(x)) (He et al. 2016b, Fig. 4c)."""

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for conv in self.convs:
            z = F.relu(conv(z))
        return z if self.shortcut is None else z + self.shortcut(x)


# Rows for this study alone: no runtime fuses this addition into a convolution, so the network is not for serving.
for _layers in (TRAINED_LAYERS, FRESH_LAYERS):
    VARIANTS[f"relu-before-add-resnet{_layers}"] = dataclasses.replace(
        VARIANTS[f"resnet{_layers}"], block=ReluBeforeAddBlock
    )


def split(settings: TrainingSettings, data: Path) -> list[Piece]:
    pieces = []
    for seed in range(settings.seeds):
        for arch in ORDERS.values():
            trained = training(f"{arch}{TRAINED_LAYERS}", seed, settings, data)
            work = functools.partial(_statistics, arch, seed, settings, data, trained)
            identity = {"study": NAME, "training": trained.identity}
            cost = _STATISTICS_IMAGES * sum(VARIANTS[f"{arch}{FRESH_LAYERS}"].depths)
            pieces += [trained, Piece(f"stream {arch} seed {seed}", identity, work, cost, needs=trained)]
    return pieces


def _statistics(
    arch: str, seed: int, settings: TrainingSettings, data: Path, trained: Piece, folder: Path
) -> dict[str, list[float]]:
    """The mean after each block of the fresh deep network, in training mode, and of the trained one, in evaluation."""
    batch = images(data, "train", settings.train_images, settings.size)
    batch = dataclasses.replace(batch, array=batch.array[:_STATISTICS_IMAGES], labels=batch.labels[:_STATISTICS_IMAGES])
    torch.manual_seed(seed)
    preprocess = measure_preprocess(batch)
    fresh = architectures.build(f"{arch}{FRESH_LAYERS}", len(batch.classes), preprocess.channels)
    loaded = checkpoint.load(trained.folder(folder.parent) / CHECKPOINT)
    return {
        "fresh": stream_means(fresh.train(), batch, preprocess),
        "trained": stream_means(loaded.model(), batch, loaded.preprocess),
    }


def stream_means(model: ResNet, batch: ArrayDataset, preprocess: Preprocess) -> list[float]:
    """The mean of each block's output over images, channels and pixels."""
    means: list[float] = []
    device = best_device()
    for block in (block for stage in model.stages for block in stage.children()):
        block.register_forward_hook(lambda _, __, output: means.append(float(output.mean())))
    inputs = normalise(torch.from_numpy(batch.array).permute(0, 3, 1, 2).to(device), preprocess)
    with torch.no_grad():
        model.to(device)(inputs)
    return means


def summarise(results: Mapping[str, Numbers]) -> Numbers:
    """By order: the mean of the stream after each block [seeds, blocks], and the errors of the trained networks."""
    summary = {}
    for order, arch in ORDERS.items():
        streams = [numbers for name, numbers in results.items() if name.startswith(f"stream {arch} ")]
        runs = [numbers for name, numbers in results.items() if name.startswith(f"{arch}{TRAINED_LAYERS} ")]
        summary[order] = {
            "fresh": [stream["fresh"] for stream in streams],
            "trained": [stream["trained"] for stream in streams],
            "train_error": [run["train_error"] for run in runs],
            "train_loss": [run["curve"][-1]["train_loss"] for run in runs],
            "test_error": [run["test_error"] for run in runs],
        }
    return summary


def draw(numbers: Numbers) -> Figure:
    figure, axes = figures.panels(3)
    for place, (order, color) in enumerate(zip(numbers, COLORS, strict=True)):
        _stream(axes[0], numbers[order]["fresh"], color, order)
        _stream(axes[1], numbers[order]["trained"], color, order)
        figures.dots(axes[2], place, 100 * np.asarray(numbers[order]["test_error"]), color)
    axes[0].set(title=f"at initialisation, {FRESH_LAYERS} layers", xlabel="block", ylabel="mean of the block's output")
    axes[1].set(title=f"trained, {TRAINED_LAYERS} layers", xlabel="block", ylabel="mean of the block's output")
    axes[2].set(title=f"trained, {TRAINED_LAYERS} layers", ylabel="test error in %")
    axes[2].set_xticks(range(len(numbers)), [order.replace(" ", "\n", 1) for order in numbers], fontsize=8)
    axes[2].margins(x=0.12, y=0.15)
    axes[0].legend(fontsize=8)
    return figure


def _stream(panel: Axes, means: list[list[float]], color: str, label: str) -> None:
    figures.line_with_spread(panel, np.arange(1, len(means[0]) + 1), means, color=color, label=label)
