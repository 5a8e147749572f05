"""A checkpoint to begin with."""

from __future__ import annotations

from pathlib import Path

from models.architectures import ResNet
from models.data import DataError, Dataset, match_classes
from models.training import checkpoint
from models.training.checkpoint import Checkpoint, CheckpointError


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
            f"resnet-export import {path} --output imported.safetensors"
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
