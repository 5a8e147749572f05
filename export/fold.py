"""Folds a network for inference, so that a runtime only gets convolutions, ReLUs and additions.

A batch normalisation after a convolution becomes part of it: with gamma, beta, mean mu and variance v,

    gamma (W x + b - mu) / sqrt(v + eps) + beta  =  (s W) x + (s (b - mu) + beta),   s = gamma / sqrt(v + eps).

The zero-padding shortcut becomes a 1x1 convolution with a fixed identity matrix: runtimes fuse an addition into the
convolution before it, and ONNX Runtime does not if the other side is a slice and a pad.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from models.architectures import ResNet
from models.architectures.blocks import ConvNorm, PreActivationBlock, ZeroPadShortcut


def fold(model: ResNet) -> ResNet:
    """A copy of `model` in evaluation mode that computes the same with fewer operations.

    A normalisation before a ReLU and a convolution (in pre-activation blocks, the one after the addition) cannot be
    folded and remains.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        if isinstance(module, ConvNorm):
            module.conv, module.norm = _fold_pair(module.conv, module.norm)
        elif isinstance(module, PreActivationBlock):
            for index in range(1, len(module.norms)):
                module.convs[index - 1], module.norms[index] = _fold_pair(module.convs[index - 1], module.norms[index])
        for name, child in list(module.named_children()):
            if isinstance(child, ZeroPadShortcut):
                setattr(module, name, _as_convolution(child))
    return folded


def _fold_pair(conv: nn.Module, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"expected a convolution, found {type(conv).__name__}")
    if not isinstance(norm, nn.BatchNorm2d):
        return conv, norm
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a normalisation without running statistics cannot be folded")
    folded = copy.deepcopy(conv)
    folded.bias = nn.Parameter(torch.zeros_like(norm.bias))
    with torch.no_grad():
        # In double precision, so that values are rounded only once.
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.double()
        folded.weight.copy_(conv.weight.double() * scale[:, None, None, None])
        folded.bias.copy_((bias - norm.running_mean.double()) * scale + norm.bias.double())
    return folded, nn.Identity()


def _as_convolution(shortcut: ZeroPadShortcut) -> nn.Conv2d:
    conv = nn.Conv2d(shortcut.in_channels, shortcut.out_channels, 1, shortcut.stride, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(shortcut.out_channels, shortcut.in_channels)[:, :, None, None])
    return conv.requires_grad_(False)
