"""What `resnet-classify` keeps beside its answers: pictures of activation maps, and embeddings."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.artifact.parity import Float32Array
from service.inference.results import ImageResult


class MapFolder:
    """A PNG for each image and class, in folders as the images lie: FOLDER/cat.jpg.1-tabby.png.

    Args:
        folder: made if it is not there.
        files: all images; the deepest folder that holds them all is left out of the names.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder = folder
        self._common = Path(os.path.commonpath([path.absolute().parent for path in files]))
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, result: ImageResult) -> None:
        """Write the maps of one image."""
        place = self._folder / path.absolute().relative_to(self._common)
        for rank, prediction in enumerate(result.predictions, start=1):
            if prediction.cam_png is not None:
                label = re.sub(r"[^\w.-]+", "-", prediction.label).strip("-")[:80]
                place.parent.mkdir(parents=True, exist_ok=True)
                file = place.with_name(f"{place.name}.{rank}-{label}.png")
                file.write_bytes(prediction.cam_png)

    def finish(self) -> None:
        """Every file is written already."""


class EmbeddingFile:
    """A .npz with `files`, the paths of the images that have an embedding, and `embeddings`, float32 [n, features]."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.open("ab").close()  # what cannot be written is said before hours of work
        self._files: list[str] = []
        self._rows: list[Float32Array] = []

    def write(self, path: Path, result: ImageResult) -> None:
        """Remember one image."""
        if result.embedding is not None:
            self._files.append(str(path))
            self._rows.append(np.array(result.embedding, np.float32))

    def finish(self) -> None:
        """Write the file."""
        rows = np.stack(self._rows) if self._rows else np.empty((0, 0), np.float32)
        with self._path.open("wb") as file:  # `savez` adds a suffix to a path that has another
            np.savez(file, files=np.array(self._files, np.str_), embeddings=rows)
