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
from export.importing.unwrap import find_weights
from models.artifact.manifest import sha256
from models.files import git_lfs_problem
from models.training import checkpoint
from models.training.checkpoint import CheckpointError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""First bytes of a file of `torch.save`, since PyTorch 1.6 and before."""


@dataclass(frozen=True)
class WeightsFile:
    """Tensors by their original names, and the files beside them."""

    path: Path
    tensors: dict[str, Tensor]
    place: str = ""
    """Place of the tensors in the file, by its keys and names; empty for a plain state dict."""

    @cached_property
    def sha256(self) -> str:
        return sha256(self.path)

    def beside(self, name: str) -> dict[str, Any]:
        """A JSON object in a file of the same folder; empty if there is none, or if the file is something else."""
        try:
            content = json.loads((self.path.parent / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


class _Placeholder:
    """Takes the place of a class or function that a file refers to, and does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


def read(path: Path) -> WeightsFile:
    """The tensors of a safetensors file, or of a state dict of `torch.save`.

    Raises:
        ForeignWeights: the file does not exist, has another format, or holds more than tensors.
    """
    if problem := git_lfs_problem(path):
        raise ForeignWeights(problem)
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP))
    except OSError as error:
        raise ForeignWeights(f"{path}: cannot be read: {error.strerror}") from error
    content: object
    if start == _ZIP or start.startswith(_PICKLE):
        content = _read_pickled(path)
    else:
        try:
            content, _ = checkpoint.load_tensors(path)
        except CheckpointError as error:
            raise ForeignWeights(f"{path}: is neither safetensors nor a file of torch.save") from error
    try:
        found = find_weights(content)
    except ForeignWeights as error:
        raise ForeignWeights(f"{path}: {error}") from error
    if found is None:
        raise ForeignWeights(f"{path}: holds {_kind(content)}, no state dict: save model.state_dict()")
    if strange := next((name for name, value in found.tensors.items() if not _is_plain(value)), None):
        raise ForeignWeights(f"{path}: {strange} is sparse, quantised, complex or without values: save plain numbers")
    return WeightsFile(path, found.tensors, str(found))


def _is_plain(tensor: Tensor) -> bool:
    stored = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return stored and not tensor.is_quantized and not tensor.is_complex()


def _read_pickled(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_placeholders(path)):
            warnings.simplefilter("ignore")  # about old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignWeights(f"{path}: {_why_not(str(error))}") from error
    except Exception as error:  # a damaged pickle raises errors of any class
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ForeignWeights(f"{path}: is not a complete file of torch.save: {first}") from error


def _placeholders(path: Path) -> list[Any]:
    """A placeholder for each class that a file refers to beside its tensors, as in the options that tools save.

    No class or function that a file names is imported or called.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the file is damaged, or older than PyTorch 1.6; torch.load gives the reason
        return []
    return [(type(name.rpartition(".")[2], (_Placeholder,), {"__module__": name}), name) for name in names]


def _kind(content: object) -> str:
    if isinstance(content, _Placeholder):
        return f"an object of {type(content).__module__}"
    if isinstance(content, dict):
        objects = [type(value).__module__ for value in content.values() if isinstance(value, _Placeholder)]
        return f"objects of {', '.join(objects)}" if objects else "only values without tensors"
    return f"a {type(content).__name__}"


def _why_not(message: str) -> str:
    """The refused class from PyTorch's long message."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    reason = f"refers to {named[1]}, which could run code," if named else "holds more than tensors"
    return f"{reason} and is not loaded: save only the state dict, best as safetensors"
