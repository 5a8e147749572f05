"""The members of an ensemble: checkpoints that take the same images and have the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export import samples
from export.build import eager_logits
from export.ensemble.graph import logits_of
from export.errors import BuildError
from export.temperature import choose_temperature, softmax
from models.architectures import ResNet
from models.artifact.manifest import TemperatureFit, sha256
from models.artifact.parity import Float32Array
from models.imaging.preprocess import Geometry, UInt8Array
from models.training import checkpoint
from models.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Member:
    """A network of an ensemble, with the temperature that it would have on its own."""

    path: Path
    trained: Checkpoint
    model: ResNet
    temperature: float
    fit: TemperatureFit | None

    def probabilities(self, images: UInt8Array) -> Float32Array:
        """Probabilities of the eager model, float32 [n, classes], of images, uint8 [n, H, W, C]."""
        logits = eager_logits(self.model, images, self.trained)
        return softmax(logits.astype(np.float64) / self.temperature).astype(np.float32)


def load_members(paths: Sequence[Path], data: Path | None, by_position: bool) -> list[Member]:
    """Load checkpoints, and choose the temperature of each as `build` does for a checkpoint alone.

    Raises:
        BuildError: there are fewer than two, or they differ in their classes or in the images that they take.
        CheckpointError, DataError: as for `build`.
    """
    if len(paths) < 2:
        raise BuildError("an ensemble needs two checkpoints or more")
    loaded = [checkpoint.load(path) for path in paths]
    if len({sha256(path) for path in paths}) < len(paths):
        raise BuildError("two members are the same checkpoint, whose average is itself: give different ones")
    for path, trained in zip(paths[1:], loaded[1:], strict=True):
        if problem := _difference(loaded[0], trained):
            raise BuildError(
                f"{path}: {problem} than {paths[0]}: the members of an ensemble have the same classes in the same "
                "order, and take the same images"
            )
    members = []
    for path, trained in zip(paths, loaded, strict=True):
        model, used = trained.model(), samples.find(trained, data, by_position)
        logits = eager_logits(model, used.selection, trained)
        members.append(
            Member(path, trained, model, *choose_temperature(logits, used.selection_labels, used.selection_source))
        )
    return members


def ensemble_logits(members: Sequence[Member], images: UInt8Array) -> Float32Array:
    """Logits of the average of the eager models, float32 [n, classes]."""
    total = np.sum([member.probabilities(images) for member in members], 0, dtype=np.float64)
    return logits_of(np.asarray(total / len(members), np.float32))


def _difference(first: Checkpoint, other: Checkpoint) -> str | None:
    if first.labels != other.labels:
        return "has other classes, or in another order,"
    for field in Geometry.model_fields:  # mean and standard deviation may differ: they are in the graph of each member
        values = [getattr(trained.preprocess, field) for trained in (first, other)]
        if values[0] != values[1]:
            return f"has another {field} ({values[1]}, not {values[0]})"
    return None
