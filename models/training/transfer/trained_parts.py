"""The parts of a network that an epoch trains; the others are kept as they are."""

from __future__ import annotations

from torch import nn

from models.architectures import ResNet
from models.training.augmentation.pipeline import is_testlike
from models.training.recipe import Recipe, RecipeError

_NORMS = nn.BatchNorm2d | nn.SyncBatchNorm


def check_trained_parts(model: ResNet, recipe: Recipe, *, pretrained: bool) -> None:
    """Check that the network has the stage of `freeze`, and statistics to keep.

    Raises:
        RecipeError: it has not.
    """
    if recipe.keep_statistics and not pretrained:
        raise RecipeError("--keep-statistics, a part of the recipe finetune, needs weights to begin with: --init")
    if recipe.freeze.isdigit() and int(recipe.freeze) > len(model.stages):
        raise RecipeError(f"--freeze {recipe.freeze}: {recipe.arch} has {len(model.stages)} stages")


def set_trained(model: ResNet, recipe: Recipe, epoch: int) -> None:
    """Choose the parts that an epoch trains, and put the network into training mode.

    Frozen parts get no gradient, and their batch normalisation stays in evaluation mode, as all of it does with
    `keep_statistics`. The last phase at the test resolution trains classifier and normalisation.
    """
    model.train().requires_grad_(True)
    if is_testlike(recipe, epoch):
        model.requires_grad_(False)
        for module in (model.classifier, *model.modules()):
            if module is model.classifier or isinstance(module, _NORMS):
                module.requires_grad_(True)
    elif not recipe.freeze_epochs or epoch < recipe.freeze_epochs:
        for part in _frozen_parts(model, recipe):
            part.eval().requires_grad_(False)
    if recipe.keep_statistics:
        for module in model.modules():
            if isinstance(module, _NORMS):
                module.eval()


def _frozen_parts(model: ResNet, recipe: Recipe) -> list[nn.Module]:
    if recipe.freeze == "none":
        return []
    if recipe.freeze == "trunk":
        return [model.stem, *model.stages, model.final_norm]
    return [model.stem, *(model.stages[: int(recipe.freeze)] if recipe.freeze.isdigit() else [])]
