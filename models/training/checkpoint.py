"""Checkpoints: safetensors files that hold the weights and, in their header, all that is needed to use them.

A checkpoint needs no code to be trusted: nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models import architectures
from models.architectures import ResNet
from models.artifact.manifest import Architecture
from models.imaging.preprocess import Preprocess

_METADATA = "resnet-serve"


class CheckpointError(ValueError):
    """The file is not a usable checkpoint; the message is one line that says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it needs to be used.

    `weights` are the state dict of `architectures.build(...)`; `training` holds provenance: recipe, data set, metrics.
    """

    architecture: Architecture
    labels: tuple[str, ...]
    preprocess: Preprocess
    weights: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)

    def model(self) -> ResNet:
        """The network with its weights, in evaluation mode.

        Raises:
            CheckpointError: the weights are not those of the architecture that the file names.
        """
        arch = self.architecture
        try:
            with torch.device("meta"):
                model = architectures.build(arch.name, arch.num_classes, arch.in_channels, **arch.options)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"the architecture cannot be built: {error}") from error
        expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in self.weights.items()}
        if problem := _difference(expected, found):
            raise CheckpointError(f"these are not the weights of {arch.name}: {problem}")
        model.load_state_dict(self.weights, assign=True)
        return model.eval()

    def check_classes(self, classes: Sequence[str]) -> None:
        """Compare with the classes of a data set, by number and order; other names for them are taken.

        Raises:
            CheckpointError: another number of classes, or the same names in another order.
        """
        if len(classes) != len(self.labels):
            raise CheckpointError(f"the data set has {len(classes)} classes, the checkpoint {len(self.labels)}")
        if tuple(classes) != self.labels and set(classes) == set(self.labels):
            raise CheckpointError("the data set has the checkpoint's classes in another order")

    def save(self, path: Path) -> None:
        """Write atomically: the file is complete or it is the old one."""
        header = {
            "architecture": self.architecture.model_dump(exclude_none=True),
            "labels": self.labels,
            "preprocess": self.preprocess.model_dump(),
            "training": self.training,
        }
        save_tensors(self.weights, path, {_METADATA: json.dumps(header, sort_keys=True)})


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: no such file, not safetensors, damaged, or not written by this project.
    """
    weights, metadata = load_tensors(path)
    if _METADATA not in metadata:
        raise CheckpointError(
            f"{path}: holds weights but not what they are (no {_METADATA!r} in its header): "
            "give a checkpoint that resnet-train wrote"
        )
    try:
        header = json.loads(metadata[_METADATA])
        return Checkpoint(
            architecture=Architecture.model_validate(header["architecture"]),
            labels=tuple(header["labels"]),
            preprocess=Preprocess.model_validate(header["preprocess"]),
            weights=weights,
            training=header.get("training", {}),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its header cannot be understood: {reason}") from error


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file beside `path` and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        save_file(contiguous, partial, metadata)
        partial.chmod(0o644)  # the library makes it readable by its owner only
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: no such file, or not (whole) safetensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a whole safetensors file: {error}") from error


def _difference(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str | None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        return f"{len(missing)} missing, the first is {missing[0]!r}"
    if extra:
        return f"{len(extra)} left over, the first is {extra[0]!r}"
    for key, shape in expected.items():
        if found[key] != shape:
            return f"{key!r} has shape {list(found[key])}, expected {list(shape)}"
    return None
