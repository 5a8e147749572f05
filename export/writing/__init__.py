"""Writes checkpoints as other libraries write them, with one module per library and a line in `LIBRARIES`.

The names of tensors are those of `export.importing`, so a file that is imported and written again has equal tensors.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from export.errors import BuildError
from export.importing import LAYOUTS
from export.importing.fit import COUNTER
from export.writing import timm, torchvision, transformers
from export.writing.library import Library, common_reason
from models.files import atomic_write
from models.training.checkpoint import Checkpoint

LIBRARIES: Mapping[str, Library] = {"torchvision": torchvision, "timm": timm, "transformers": transformers}

_PICKLED = (".pth", ".pt")
_SAFETENSORS = ".safetensors"


def write(checkpoint: Checkpoint, layout: str, output: Path) -> list[Path]:
    """Write a checkpoint for another library, and return the files.

    Args:
        checkpoint: a checkpoint whose weights fit its architecture.
        layout: a key of `LIBRARIES`.
        output: for torchvision, a file (.safetensors, .pth or .pt). For the others, a folder as the Hugging Face hub
            has it; it is created, or empty.

    Raises:
        BuildError: the library has no such network or preprocessing, or the output is not usable.
    """
    if layout not in LIBRARIES:
        raise BuildError(f"no layout is named {layout!r}; there are: {', '.join(LIBRARIES)}")
    library = LIBRARIES[layout]
    if reason := common_reason(checkpoint) or library.reason(checkpoint):
        raise BuildError(f"{layout} has no network that computes {checkpoint.architecture.name}: {reason}")
    files = library.files(checkpoint)
    if files:
        return _write_folder(files, _renamed(checkpoint, layout), output)
    return [_write_file(_renamed(checkpoint, layout), output)]


def _renamed(checkpoint: Checkpoint, layout: str) -> dict[str, Tensor]:
    """The weights by the library's names, without counters if the file that they are from had none."""
    counted = checkpoint.training.get("imported", {}).get("counters", True)
    return {
        LAYOUTS[layout].rename(key): value.detach().contiguous()
        for key, value in checkpoint.weights.items()
        if counted or not key.endswith(COUNTER)
    }


def _write_folder(files: Mapping[str, object], tensors: dict[str, Tensor], folder: Path) -> list[Path]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BuildError(f"{folder}: already exists and is not empty: give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [*(folder / name for name in files), folder / "model.safetensors"]
    try:
        _write_file(tensors, paths[-1])
        for path, content in zip(paths, files.values(), strict=False):
            atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
    except BaseException:  # a second try needs an empty folder
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths


def _write_file(tensors: dict[str, Tensor], path: Path) -> Path:
    if path.suffix not in (_SAFETENSORS, *_PICKLED):
        raise BuildError(f"{path}: a file of weights ends in {_SAFETENSORS} or {' or '.join(_PICKLED)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == _SAFETENSORS:
        content = save(tensors, {"format": "pt"})
    else:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        content = buffer.getvalue()
    atomic_write(path, content)
    return path
