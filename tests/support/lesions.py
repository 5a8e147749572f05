"""Networks in PyTorch whose residual branches are scaled, without the code that deletes blocks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from models.architectures import ResNet
from models.artifact.parity import Float32Array
from models.training.checkpoint import Checkpoint


def scaled(trained: Checkpoint, gates: Float32Array) -> ResNet:
    """The network with factors, float32 [blocks], for the last weights and shifts before each addition."""
    model = copy.deepcopy(trained.model())
    blocks: list[Any] = [block for stage in model.stages for block in stage.children()]
    for block, gate in zip(blocks, gates.tolist(), strict=True):
        last = block.convs[-1]
        # Those of the normalisation after the convolution, or of the convolution without one.
        affine = last.norm if isinstance(getattr(last, "norm", None), nn.BatchNorm2d) else last
        with torch.no_grad():
            for values in affine.parameters():
                values.mul_(gate)
    return model
