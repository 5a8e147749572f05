"""Make `tests/data/tiny` again: `python -m tests.support.make_tiny_repository`.

The folder holds the checkpoint of the network `tiny`, a repository with version 1 of it in every precision, and the
probabilities that the PyTorch model gives for the photographs of the project. With it most tests need no PyTorch.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from export.build import build
from models.artifact.parity import Float32Array
from models.training.checkpoint import Checkpoint
from tests.support.networks import make_checkpoint
from tests.support.tiny import CHECKPOINT, FOLDER, PROBABILITIES, REPOSITORY, cut, read_photographs


def make(folder: Path) -> None:
    """Write the checkpoint, the repository and the probabilities to a folder that is empty or does not exist."""
    folder.mkdir(exist_ok=True)
    checkpoint = make_checkpoint("tiny", classes=5)
    checkpoint.save(folder / CHECKPOINT)
    np.savez(folder / PROBABILITIES, **probabilities(checkpoint))  # type: ignore[arg-type]  # an array for each name
    build(folder / CHECKPOINT, folder / REPOSITORY, "tiny", float16=True, int8=True)


def probabilities(checkpoint: Checkpoint) -> dict[str, Float32Array]:
    """Probabilities [5] of each photograph by the PyTorch model, by file name; no code of the service is used."""
    model = checkpoint.model()
    answers = {}
    for name, data in read_photographs():
        pixels = torch.from_numpy(cut(data).astype(np.float32) / 255)
        normalised = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        with torch.inference_mode():
            answers[name] = model(normalised.permute(2, 0, 1)[None]).softmax(1)[0].numpy()
    return answers


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    make(FOLDER)
