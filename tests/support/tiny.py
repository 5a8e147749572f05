"""The network `tiny`: five classes of 32 x 32 colour images, cut from a shorter side of 36 pixels.

Its files are in `tests/data/tiny`; `tests.support.make_tiny_repository` makes them.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Collection
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from models.artifact import manifest
from models.artifact.manifest import Precision
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.executors import Runtime
from service.executors.base import Source

FOLDER = Path(__file__).parents[1] / "data" / "tiny"
CHECKPOINT = "checkpoint.safetensors"
REPOSITORY = "repository"
PROBABILITIES = "probabilities.npz"
"""Files in the folder: the checkpoint, the repository, and the probabilities of the photographs by their names."""

Photographs = list[tuple[str, bytes]]
"""File names and contents."""

Golden = tuple[UInt8Array, Float32Array]
"""Images [n, 32, 32, 3] and the logits [n, 5] of the PyTorch model."""

Eager = Callable[[bytes], Float32Array]
"""Gives the probabilities [5] of an image file by the PyTorch model."""


def read_photographs() -> Photographs:
    """The photographs that ship with the project, sorted by name."""
    folder = resources.files("export") / "photographs"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".jpg")), key=lambda file: file.name)
    assert len(files) >= 6
    return [(file.name, file.read_bytes()) for file in files]


def copy_repository(destination: Path, precisions: Collection[Precision]) -> Path:
    """Copy the repository of `tiny`, with the artifacts of these precisions only.

    Returns:
        `destination`, which must not exist yet.
    """
    shutil.copytree(FOLDER / REPOSITORY, destination)
    version = destination / "tiny" / "1"
    described = manifest.read(version)
    for artifact in described.artifacts:
        if artifact.precision not in precisions:
            (version / artifact.file).unlink()
    kept = tuple(artifact for artifact in described.artifacts if artifact.precision in precisions)
    content = described.model_copy(update={"artifacts": kept}).to_json()
    (version / manifest.FILE_NAME).write_text(content, encoding="utf-8")
    return destination


def renumber(version: Path, number: int, name: str = "tiny") -> None:
    """Give a version in a folder another number or name in its manifest."""
    path = version / manifest.FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": name, "version": number}))


def source_of(version: Path, runtime: Runtime, precision: Precision = "float32", cache: Path = Path("no")) -> Source:
    """The source that an executor of a runtime loads, with one thread."""
    described = manifest.read(version)
    return Source(
        version, described, runtime.select_artifact(described, precision), precision, 1, runtime.argument, cache
    )


def cut(data: bytes) -> UInt8Array:
    """The pixels of an image file for `tiny`, uint8 [32, 32, 3], by Pillow's own operations."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    shorter = min(image.size)
    image = image.resize((36 * image.width // shorter, 36 * image.height // shorter), Image.Resampling.BILINEAR)
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    return np.asarray(image.crop((left, top, left + 32, top + 32)))
