"""Fine-tuning: a network begins with the weights of a checkpoint, and parts of it are kept as they are for a time."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from models.architectures import ResNet
from models.console import console
from models.data import DataError, Dataset, match_classes
from models.training import checkpoint
from models.training.augmentation.pipeline import is_testlike
from models.training.checkpoint import Checkpoint, CheckpointError
from models.training.recipe import Recipe, RecipeError


def load_initial(path: Path) -> Checkpoint:
    """The checkpoint to begin with.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is a file of another project.
    """
    try:
        initial = checkpoint.load(path)
        initial.model()
    except CheckpointError as error:
        if not path.is_file() or "Git LFS" in str(error):
            raise
        raise CheckpointError(
            f"{error}. If these are weights of another project, import them first: "
            f"resnet-export import {path} --out imported.safetensors"
        ) from error
    return initial


def keep_classes(data: Dataset, initial: Checkpoint) -> Dataset:
    """The data set with the classes of the checkpoint in their order, if both have the same; else as it is."""
    if len(data.classes) != len(initial.labels):
        return data
    try:
        return match_classes(data, initial.labels)
    except DataError:
        return data


def load_weights(model: ResNet, labels: tuple[str, ...], initial: Checkpoint) -> None:
    """Load the weights of a checkpoint; the classifier keeps its random weights if the classes differ."""
    weights = initial.model().state_dict()
    if labels != initial.labels:
        weights |= {key: value for key, value in model.state_dict().items() if key.startswith("classifier.")}
    model.load_state_dict(weights)
    kept = "classifier kept" if labels == initial.labels else f"new classifier for {len(labels):,} classes"
    console.print(f"begins with the weights of {initial.architecture.name}: {kept}", highlight=False, soft_wrap=True)


def check_freeze(model: ResNet, recipe: Recipe) -> None:
    """Check that the network has the stage of `freeze`.

    Raises:
        RecipeError: it has not.
    """
    if recipe.freeze.isdigit() and int(recipe.freeze) > len(model.stages):
        raise RecipeError(f"--freeze {recipe.freeze}: {recipe.arch} has {len(model.stages)} stages")


def set_trained(model: ResNet, recipe: Recipe, epoch: int) -> None:
    """Choose the parts that an epoch trains, and put the network into training mode.

    Frozen parts get no gradient, and their batch normalisation stays in evaluation mode. The last phase at the test
    resolution trains classifier and normalisation.
    """
    model.train().requires_grad_(True)
    if is_testlike(recipe, epoch):
        model.requires_grad_(False)
        for module in (model.classifier, *model.modules()):
            if module is model.classifier or isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                module.requires_grad_(True)
    elif not recipe.freeze_epochs or epoch < recipe.freeze_epochs:
        for part in _frozen_parts(model, recipe):
            part.eval().requires_grad_(False)


def _frozen_parts(model: ResNet, recipe: Recipe) -> list[nn.Module]:
    if recipe.freeze == "none":
        return []
    if recipe.freeze == "trunk":
        return [model.stem, *model.stages, model.final_norm]
    return [model.stem, *(model.stages[: int(recipe.freeze)] if recipe.freeze.isdigit() else [])]
