"""The folder of a training run, from which a stopped run can continue.

model.safetensors   the checkpoint: weights of the best epoch, with architecture, labels and preprocessing
state.safetensors   weights, optimiser, position and the figures of the finished epochs, for resuming
recipe.toml         the recipe, which can be given again as --recipe
metrics.jsonl       the figures, one line per epoch
curves.png          a plot of them
samples.png         augmented images of the first batch
initial.safetensors the checkpoint to begin with, if `--init` named weights of another project
tensorboard/        event files, with --tensorboard
trackers.json       the names of the run on the servers of MLflow and Weights & Biases
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from models.files import atomic_write
from models.training import checkpoint, recipes
from models.training.checkpoint import CheckpointError
from models.training.plots import plot_curves
from models.training.recipe import Recipe
from models.training.state import TrainingState

CHECKPOINT_FILE = "model.safetensors"
STATE_FILE = "state.safetensors"
RECIPE_FILE = "recipe.toml"
_VERSION = 2
"""Of the state: increased when the same recipe would continue with other random numbers."""


def check_folder(folder: Path, *, resume: bool) -> None:
    """Check that the folder holds a run if one is to be resumed, and none otherwise. Creates it and writes to it.

    Raises:
        CheckpointError: it does not, or it cannot be written.
    """
    if resume and not (folder / STATE_FILE).is_file():
        raise CheckpointError(
            f"{folder}: holds no run to resume, for it has no {STATE_FILE}: check --out, or begin without --resume"
        )
    if not resume and any((folder / name).exists() for name in (STATE_FILE, CHECKPOINT_FILE)):
        raise CheckpointError(f"{folder}: already holds a run: give --resume to continue it, or another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror}") from error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder of a run, and keep other processes from training in it.

    Raises:
        CheckpointError: another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{folder}: another process trains in it: give another --out") from None
        yield
    finally:
        os.close(lock)


class RunDirectory:
    """The folder of one run.

    Args:
        folder: created by `locked`.
        identity: all values that decide the run's result; a state with another identity cannot be resumed.
        writes: whether this process writes the files, which is one of several; the others only read the state.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self.checkpoint = folder / CHECKPOINT_FILE
        self._state = folder / STATE_FILE
        self._metrics = folder / "metrics.jsonl"
        self._identity = json.loads(json.dumps(identity))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """As `locked_folder`, in the process that writes.

        Raises:
            CheckpointError: another process trains in it.
        """
        with locked_folder(self.folder) if self.writes else nullcontext():
            yield

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the recipe, to read or to give again."""
        if not self.writes:
            return
        atomic_write(self.folder / RECIPE_FILE, recipes.to_toml(recipe).encode())

    def save_state(self, state: TrainingState, history: Sequence[dict[str, Any]]) -> None:
        """Write the state and the figures of the finished epochs for `resume`, atomically."""
        if not self.writes:
            return
        content = {
            "version": _VERSION,
            "identity": self._identity,
            "position": state.header(),
            "history": history,
        }
        checkpoint.save_tensors(state.tensors(), self._state, {"state": json.dumps(content)})

    def has_state(self) -> bool:
        """Whether a run was saved here."""
        return self._state.exists()

    def resume(self, state: TrainingState) -> list[dict[str, Any]]:
        """Restore the saved state, if there is one, and return the figures of the finished epochs.

        Raises:
            CheckpointError: the saved state is damaged, or belongs to another version, recipe or other data.
        """
        if not self.has_state():
            return []
        tensors, metadata = checkpoint.load_tensors(self._state)
        try:
            header = json.loads(metadata["state"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{self._state}: is not the state of a run") from error
        if header.get("version") != _VERSION:
            raise CheckpointError(
                f"{self._state}: was saved by another version of resnet-train, which draws other random numbers: "
                "finish the run with that version, or train again with another --out"
            )
        saved = header["identity"]
        # The state of an older release lacks what was added later.
        changed = [key for key, value in self._identity.items() if saved.get(key, value) != value]
        if changed:
            raise CheckpointError(
                f"{self._state}: was saved with another {', '.join(changed)}: resume with the same options and data"
            )
        state.restore(header["position"], tensors)
        history: list[dict[str, Any]] = header["history"]
        if history and not self._metrics.exists():
            self.write_history(history)
        return history

    def write_history(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the figures of all epochs as JSON lines and as a plot."""
        if not self.writes:
            return
        atomic_write(self._metrics, "".join(json.dumps(figures) + "\n" for figures in history).encode())
        plot_curves(history, self.folder / "curves.png")
