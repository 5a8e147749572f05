"""The folder of a training run, from which a stopped run can continue.

model.safetensors   the checkpoint: weights of the last finished epoch, with architecture, labels and preprocessing
state.safetensors   weights, momentum, position and the figures of the finished epochs, for resuming
metrics.jsonl       the figures, one line per epoch
curves.png          a plot of them
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD

from models.architectures import ResNet
from models.console import print_once
from models.files import atomic_write
from models.training import checkpoint
from models.training.checkpoint import Checkpoint, CheckpointError
from models.training.plots import plot_curves

CHECKPOINT_FILE = "model.safetensors"
STATE_FILE = "state.safetensors"
_POSITION = ("epoch", "step", "loss_sum", "correct", "images_done")
_OLD_NAMES = {"seen": "images_done"}


@dataclass
class TrainingState:
    """Network, optimiser and position of a run: `step` batches of `epoch` are done."""

    model: ResNet
    optimizer: SGD
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """Sum over the epoch's images."""
    correct: int = 0
    images_done: int = 0
    """Images of the epoch."""

    @property
    def position(self) -> dict[str, float]:
        """All fields but network and optimiser."""
        return {key: getattr(self, key) for key in _POSITION}


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


class RunDirectory:
    """The folder of one run.

    Args:
        folder: created by `locked`.
        identity: all values that decide the run's result; a state with another identity cannot be resumed.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.checkpoint = folder / CHECKPOINT_FILE
        self._state = folder / STATE_FILE
        self._metrics = folder / "metrics.jsonl"
        self._identity = json.loads(json.dumps(identity))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, and keep other processes from training in it.

        Raises:
            CheckpointError: another process trains in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise CheckpointError(f"{self.folder}: another process trains in it: give another --out") from None
        finally:
            os.close(lock)

    def save_epoch(self, trained: Checkpoint, state: TrainingState, history: Sequence[dict[str, Any]]) -> None:
        """Write all files at the end of an epoch; the state last, for it decides where `resume` begins."""
        trained.save(self.checkpoint)
        self.write_history(history)
        self.save_state(state, history)

    def save_state(self, state: TrainingState, history: Sequence[dict[str, Any]]) -> None:
        """Write the state and the figures of the finished epochs for `resume`, atomically."""
        tensors = {f"model.{key}": value for key, value in state.model.state_dict().items()}
        for key, parameter in state.model.named_parameters():
            if (momentum := state.optimizer.state[parameter].get("momentum_buffer")) is not None:
                tensors[f"momentum.{key}"] = momentum
        header = json.dumps(
            {"identity": self._identity, "position": state.position, "history": list(history)}, sort_keys=True
        )
        checkpoint.save_tensors(tensors, self._state, {"state": header})

    def resume(self, state: TrainingState) -> list[dict[str, Any]]:
        """Restore the saved state, if there is one, and return the figures of the finished epochs.

        Raises:
            CheckpointError: the saved state is damaged, or belongs to another recipe or other data.
        """
        if not self._state.exists():
            return []
        tensors, metadata = checkpoint.load_tensors(self._state)
        try:
            header = json.loads(metadata["state"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{self._state}: is not the state of a run") from error
        changed = [key for key, value in self._identity.items() if header["identity"].get(key) != value]
        if changed:
            raise CheckpointError(
                f"{self._state}: was saved with another {', '.join(changed)}: resume with the same options and data"
            )
        state.model.load_state_dict(
            {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        )
        for key, parameter in state.model.named_parameters():
            if (momentum := tensors.get(f"momentum.{key}")) is not None:
                # The momentum of a channels_last weight is channels_last: the update then adds in the same order.
                state.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        for key, value in header["position"].items():
            setattr(state, _OLD_NAMES.get(key, key), value)
        history: list[dict[str, Any]] = header.get("history") or self._read_metrics(state.epoch)
        if history and not self._metrics.exists():
            self.write_history(history)
        return history

    def _read_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """The figures of finished epochs, which states of version 0.1 do not hold; without those that are lost."""
        history: list[dict[str, Any]] = []
        with suppress(OSError, ValueError):
            for line in self._metrics.read_text().splitlines()[:epochs]:
                history.append(json.loads(line))
        if len(history) < epochs:
            print_once(f"{self._metrics}: has the figures of {len(history)} of {epochs} finished epochs")
        return history

    def write_history(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the figures of all epochs as JSON lines and as a plot."""
        atomic_write(self._metrics, "".join(json.dumps(figures) + "\n" for figures in history).encode())
        plot_curves(history, self.folder / "curves.png")
