"""Reads weights of other projects without executing code of the file."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.errors import ForeignWeights
from models.artifact.manifest import sha256
from models.training import checkpoint
from models.training.checkpoint import CheckpointError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""First bytes of a file of `torch.save`, since PyTorch 1.6 and before."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the state dict."""


@dataclass(frozen=True)
class WeightsFile:
    """Tensors by their original names, and the files beside them."""

    path: Path
    tensors: dict[str, Tensor]

    @cached_property
    def sha256(self) -> str:
        return sha256(self.path)

    def beside(self, name: str) -> dict[str, Any]:
        """A JSON file in the same folder; empty if there is none.

        Raises:
            ForeignWeights: the file is no JSON object.
        """
        path = self.path.parent / name
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ForeignWeights(f"{path}: cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ForeignWeights(f"{path}: is no JSON object")
        return content


def read(path: Path) -> WeightsFile:
    """The tensors of a safetensors file, or of a state dict of `torch.save`.

    Raises:
        ForeignWeights: the file does not exist, has another format, or holds more than tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP))
    except OSError as error:
        raise ForeignWeights(f"{path}: cannot be read: {error.strerror}") from error
    if start == _ZIP or start.startswith(_PICKLE):
        tensors = _read_pickled(path)
    else:
        try:
            tensors, _ = checkpoint.load_tensors(path)
        except CheckpointError as error:
            raise ForeignWeights(f"{path}: is neither safetensors nor a file of torch.save") from error
    if tensors and all(key.startswith("module.") for key in tensors):  # saved from DistributedDataParallel
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return WeightsFile(path, tensors)


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignWeights(f"{path}: {_why_not(str(error))}") from error
    except Exception as error:  # a damaged pickle raises errors of any class
        raise ForeignWeights(f"{path}: is not a complete file of torch.save: {error}") from error
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ForeignWeights(f"{path}: holds no state dict: save model.state_dict()")
    return {str(key): value for key, value in content.items()}


def _why_not(message: str) -> str:
    """The refused class from PyTorch's long message."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    reason = f"refers to {named[1]}, which could run code," if named else "holds more than tensors"
    return f"{reason} and is not loaded: save only the state dict, best as safetensors"
