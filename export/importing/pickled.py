"""Reads files of `torch.save` without executing code of the file."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from export.errors import ForeignWeights
from export.importing.contents import DISTRIBUTED_PROBLEM, SAVE, is_distributed, placeholder


def read_pickled(path: Path) -> object:
    """The content of a file of `torch.save`.

    Raises:
        ForeignWeights: the file is damaged, or needs code of the file.
    """
    names = _foreign_globals(path)
    if any(is_distributed(name) for name in names):
        raise ForeignWeights(f"{path}: holds {DISTRIBUTED_PROBLEM}")
    # No class or function that a file names is imported or called.
    placeholders: list[Any] = [(placeholder(name), name) for name in names]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(placeholders):
            warnings.simplefilter("ignore")  # about old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignWeights(f"{path}: {_why_not(str(error))}") from error
    except MemoryError as error:
        raise ForeignWeights(f"{path}: needs more memory than is free: {SAVE}") from error
    except Exception as error:  # a damaged pickle raises errors of any class
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ForeignWeights(f"{path}: is not a complete file of torch.save: {first}") from error


def _foreign_globals(path: Path) -> list[str]:
    """The classes and functions that a file refers to beside its tensors, as in the options that tools save."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the file is damaged, or older than PyTorch 1.6; torch.load gives the reason
        return []


def _why_not(message: str) -> str:
    """The refused class from PyTorch's long message."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    reason = (
        f"refers to {named[1]}, which could run code,"
        if named
        else "holds more than tensors, or has a pickle protocol other than 2,"
    )
    return f"{reason} and is not loaded: save only the state dict, best as safetensors"
