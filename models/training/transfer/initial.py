"""A checkpoint to begin with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from models.architectures import ResNet
from models.console import console
from models.data import DataError, Dataset, match_classes
from models.training import checkpoint
from models.training.checkpoint import Checkpoint, CheckpointError
from models.training.run_directory import locked_folder

IMPORTED_FILE = "initial.safetensors"


def load_initial(given: str, folder: Path, *, resume: bool) -> Checkpoint:
    """The checkpoint to begin with. Weights of another project are imported first, by `resnet-export import`.

    Args:
        given: a checkpoint, or anything that `resnet-export import` reads.
        folder: folder of the run, which gets the imported checkpoint.
        resume: take the checkpoint that was imported before, if there is one.

    Raises:
        CheckpointError: there is no such file, it is damaged, it cannot be imported, or another process trains in the
            folder.
    """
    path = Path(given)
    imported = folder / IMPORTED_FILE
    if path.is_file():
        try:
            return _load(path)
        except CheckpointError as error:
            if "Git LFS" in str(error):
                raise
    elif not path.is_dir() and ":" not in given:
        return _load(path)  # which says that there is no such file
    if not (resume and imported.exists()):
        with locked_folder(folder):
            imported.unlink(missing_ok=True)
            _import_weights(given, imported)
    return _load(imported)


def _load(path: Path) -> Checkpoint:
    loaded = checkpoint.load(path)
    loaded.model()
    return loaded


def _import_weights(source: str, target: Path) -> None:
    # -P: a file of the user called export.py must not be taken for the package.
    command = [sys.executable, "-P", "-m", "export", "import", source, "--output", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("error: ")[2]
        raise CheckpointError(f"{source}: is no checkpoint of resnet-train, and cannot be imported: {reason}")
    console.print(done.stdout.rstrip(), highlight=False, soft_wrap=True, markup=False)


def keep_classes(data: Dataset, initial: Checkpoint) -> Dataset:
    """The data set with the classes of the checkpoint in their order, if both have the same; else as it is."""
    if len(data.classes) != len(initial.labels):
        return data
    try:
        return match_classes(data, initial.labels)
    except DataError:
        return data


def load_weights(model: ResNet, labels: tuple[str, ...], initial: Checkpoint) -> None:
    """Load the weights of a checkpoint; the classifier keeps its random weights if the classes differ."""
    weights = initial.model().state_dict()
    if labels != initial.labels:
        weights |= {key: value for key, value in model.state_dict().items() if key.startswith("classifier.")}
    model.load_state_dict(weights)
