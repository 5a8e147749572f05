"""The optimiser, in groups of weights with their own decay and learning rate."""

from __future__ import annotations

import torch
from torch import nn, optim

from models.training.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """SGD or AdamW. The classifier has the full learning rate, the trunk a factor of it.

    Biases and normalisation are not decayed, unless the recipe says so.
    """
    groups = []
    for in_trunk in (True, False):
        named = [p for name, p in model.named_parameters() if name.startswith("classifier.") != in_trunk]
        decayed = [p for p in named if p.ndim > 1 or recipe.decay_norm]
        kept = [p for p in named if p.ndim <= 1 and not recipe.decay_norm]
        factor = recipe.trunk_lr if in_trunk else 1.0
        groups += [
            {"params": decayed, "weight_decay": recipe.weight_decay, "lr_factor": factor},
            {"params": kept, "weight_decay": 0.0, "lr_factor": factor},
        ]
    groups = [group for group in groups if group["params"]]
    # One kernel for all weights, which also takes the scale of float16 without waiting for the GPU.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        return optim.AdamW(groups, lr=0.0, fused=fused)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=nesterov, fused=fused)


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Set the learning rate of the classifier, and in proportion that of the trunk."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_factor"]


def clip_gradients(model: nn.Module, largest: float) -> None:
    """Scale the gradient to a norm of at most `largest`; 0 leaves it as it is."""
    if largest > 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
