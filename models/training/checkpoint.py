"""Checkpoints: safetensors files with the weights and, in their header, architecture, labels and preprocessing.

Reading a checkpoint executes no code of the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models import architectures
from models.architectures import ResNet
from models.artifact.manifest import Architecture
from models.files import atomic_write, git_lfs_problem
from models.imaging.preprocess import Preprocess
from models.validation import first_error

_METADATA = "resnet-serve"


class CheckpointError(ValueError):
    """The file is not a usable checkpoint; the message is one line with the reason."""


class _Header(BaseModel):
    """The description in the header of the file."""

    architecture: Architecture
    labels: tuple[str, ...]
    preprocess: Preprocess
    training: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> _Header:
        if len(self.labels) != self.architecture.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.architecture.num_classes} classes")
        if self.preprocess.channels != self.architecture.in_channels:
            raise ValueError(
                f"{self.preprocess.channels} colour channels for a network of {self.architecture.in_channels}"
            )
        return self


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with its labels and preprocessing."""

    architecture: Architecture
    labels: tuple[str, ...]
    preprocess: Preprocess
    weights: dict[str, Tensor]
    """State dict of `architectures.build(...)`."""
    training: dict[str, Any] = field(default_factory=dict)
    """Provenance: recipe, data set and metrics."""

    def model(self) -> ResNet:
        """The network with its weights, in evaluation mode.

        Raises:
            CheckpointError: the weights do not fit the architecture that the file names.
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
        for key, value in model.state_dict().items():
            if value.is_floating_point() != self.weights[key].is_floating_point():
                raise CheckpointError(f"{key!r} has values of type {self.weights[key].dtype}")
        weights = {key: value.float() if value.is_floating_point() else value for key, value in self.weights.items()}
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
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
        CheckpointError: the file does not exist, is not safetensors, is damaged or was not written by this project.
    """
    weights, metadata = load_tensors(path)
    if _METADATA not in metadata:
        raise CheckpointError(
            f"{path}: holds weights without a description (no {_METADATA!r} in its header): "
            "give a checkpoint that resnet-train wrote"
        )
    try:
        header = _Header.model_validate_json(metadata[_METADATA])
    except ValidationError as error:
        raise CheckpointError(f"{path}: its header cannot be understood: {first_error(error)}") from error
    return Checkpoint(header.architecture, header.labels, header.preprocess, weights, header.training)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; its folder is created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    atomic_write(path, save(contiguous, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: the file does not exist, or is not a complete safetensors file.
    """
    if problem := git_lfs_problem(path):
        raise CheckpointError(problem)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a complete safetensors file: {error}") from error


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the content of tensors, to tell files apart."""
    return hashlib.sha256(save({key: value.contiguous() for key, value in tensors.items()})).hexdigest()


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
