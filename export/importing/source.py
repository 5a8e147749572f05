"""Reads weights of other projects without executing code of the file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.errors import ForeignWeights
from export.importing.contents import SAVE, content_problem
from export.importing.parts import part_files
from export.importing.pickled import read_pickled
from export.importing.strangers import INDEX, stranger_file, stranger_folder
from export.importing.unwrap import find_weights
from models.artifact.manifest import sha256
from models.files import git_lfs_problem
from models.memory_limit import limited_memory
from models.training import checkpoint
from models.training.checkpoint import CheckpointError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""First bytes of a file of `torch.save`, since PyTorch 1.6 and before."""
_FRACTIONS = (".weight", ".bias", ".running_mean", ".running_var")
"""Ends of the names of tensors that are no counters."""


@dataclass(frozen=True)
class WeightsFile:
    """Tensors by their original names, and the files beside them."""

    path: Path
    tensors: dict[str, Tensor]
    place: str = ""
    """Place of the tensors in the file, by its keys and names; empty for a plain state dict."""
    averaged: bool = False
    """Whether the file holds a moving average of the weights, which is taken then."""
    ignored: tuple[str, ...] = ()
    """Names of the tensors beside the network."""

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


def read(path: Path) -> WeightsFile:
    """The tensors of a safetensors file, of a state dict of `torch.save`, or of the parts that an index lists.

    Raises:
        ForeignWeights: the file does not exist, has another format, or holds more than tensors.
    """
    if problem := git_lfs_problem(path):
        raise ForeignWeights(problem)
    try:
        problem = stranger_folder(path) if path.is_dir() else stranger_file(path)
    except OSError as error:
        raise ForeignWeights(f"{path}: cannot be read: {error.strerror}") from error
    if problem:
        raise ForeignWeights(f"{path}: {problem}")
    with limited_memory():
        return _read(path)


def _read(path: Path) -> WeightsFile:
    if path.name.endswith(INDEX):
        parts = [_content(part)[0] for part in part_files(path)]
        content: object = {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
        metadata: dict[str, str] = {}
    else:
        content, metadata = _content(path)
    try:
        found = find_weights(content)
    except ForeignWeights as error:
        raise ForeignWeights(f"{path}: {error}") from error
    except RecursionError as error:
        raise ForeignWeights(f"{path}: is nested too deeply: {SAVE}") from error
    problem = None if found is not None and found.known else content_problem(content, metadata)
    if found is None or problem:
        raise ForeignWeights(f"{path}: holds {problem}")
    for name, value in found.tensors.items():
        if problem := _tensor_problem(name, value):
            raise ForeignWeights(f"{path}: {name} {problem}")
    return WeightsFile(path, found.tensors, str(found), found.averaged, found.ignored)


def _content(path: Path) -> tuple[object, dict[str, str]]:
    """The content of a file, and the metadata of safetensors."""
    with path.open("rb") as file:
        pickled = file.read(len(_ZIP)).startswith((_ZIP, _PICKLE))
    if pickled:
        return read_pickled(path), {}
    try:
        return checkpoint.load_tensors(path)
    except CheckpointError as error:
        raise ForeignWeights(f"{error}: fetch it again") from error


def _tensor_problem(name: str, tensor: Tensor) -> str | None:
    """Why a tensor cannot be a weight, and what to do; None for one that can."""
    if tensor.is_quantized:
        return "is quantised: save the network as it was before, and quantise with --int8"
    if tensor.layout != torch.strided or tensor.is_complex():
        return "is sparse or complex: save plain numbers"
    if tensor.device.type != "cpu":
        return "has no values (it is on the meta device): save the weights after they are loaded"
    if tensor.numel() == 0:
        return "has no values, as in the files of DeepSpeed's stage 3: its zero_to_fp32.py joins the parts"
    # An expanded tensor can have any number of elements in a small file.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "has more elements than values in the file: save tensor.contiguous()"
    if not tensor.is_floating_point():
        return "is of whole numbers: save the network in floating point" if name.endswith(_FRACTIONS) else None
    if not bool(tensor.float().isfinite().all()):  # types of 8 bits have no `isfinite`
        return (
            "has values that are infinite or not a number: the training diverged, or the file is damaged: take an "
            "earlier checkpoint"
        )
    return None
