"""Networks as training leaves them, without training: so that a comparison of logits can fail.

With the statistics that batch normalisation starts with, a random ResNet gives every image nearly the same logits, and
an exporter that swaps colour channels goes unnoticed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from export.samples import photographs
from models import architectures
from models.architectures import ResNet
from models.architectures.blocks import LinearJoinBlock, PostActivationBlock, PreActivationBlock
from models.artifact.manifest import Architecture
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint
from models.training.evaluate import normalise
from tests.support.geometry import preprocess_for


def realistic(model: ResNet, preprocess: Preprocess, seed: int = 0) -> ResNet:
    """Weights as training leaves them in what matters here: the logits tell images apart, and rounding stays small.

    Normalisation gets its statistics from photographs, and the logits are centred over them. Residual branches are
    weaker than their shortcuts, as in trained networks. Layers that no shortcut bridges are near the identity: with
    random weights a deep plain network is chaotic (at 110 layers its own float32 and float64 logits differ by 70 % of
    their spread), and nothing could be compared.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative average
            nn.init.uniform_(module.weight, 0.7, 1.3, generator=generator)
            nn.init.normal_(module.bias, 0.5, 0.1, generator=generator)
    blocks = sum(
        isinstance(module, LinearJoinBlock | PostActivationBlock | PreActivationBlock) for module in model.modules()
    )
    # The sum of many small steps stays the same, whatever their number.
    strength = min(1.0, (16 / blocks) ** 0.5)
    for module in model.modules():
        if isinstance(module, LinearJoinBlock) or (isinstance(module, PostActivationBlock) and module.shortcut is None):
            for conv in module.modules():
                if isinstance(conv, nn.Conv2d):
                    _near_identity(conv, 0.05 * strength)
        elif isinstance(module, PostActivationBlock):
            _weaken(module.convs[-1].norm, 0.2 * strength)
        elif isinstance(module, PreActivationBlock):
            _weaken(module.norms[-1], 0.2 * strength)
    nn.init.normal_(model.classifier.weight, std=0.05, generator=generator)
    images = torch.from_numpy(photographs(preprocess).copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        inputs = normalise(images, preprocess)
        model.train()(inputs[::2])
        logits = model.eval()(inputs)
        model.classifier.bias.sub_(logits.mean(0))
    return model


def _weaken(norm: Any, factor: float) -> None:
    if isinstance(norm, nn.BatchNorm2d):
        with torch.no_grad():
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)


def _near_identity(conv: nn.Conv2d, share: float) -> None:
    """Each output channel passes one input channel on, and a share of what it was."""
    centre = conv.kernel_size[0] // 2
    outputs = torch.arange(conv.out_channels)
    with torch.no_grad():
        conv.weight.mul_(share)
        conv.weight[outputs, outputs % conv.in_channels, centre, centre] += 1.0


def make_checkpoint(
    arch: str, *, size: int = 32, channels: int = 3, classes: int = 10, seed: int = 0, **options: object
) -> Checkpoint:
    """A checkpoint of a realistic network."""
    torch.manual_seed(seed)
    preprocess = preprocess_for(size, channels)
    model = realistic(architectures.build(arch, classes, channels, **options), preprocess, seed)
    return Checkpoint(
        Architecture(name=arch, num_classes=classes, in_channels=channels, options=options),
        tuple(f"class {index}" for index in range(classes)),
        preprocess,
        model.state_dict(),
    )
