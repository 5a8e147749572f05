"""The folder of a training run, from which a stopped run can continue.

model.safetensors   the checkpoint: weights of the last finished epoch, with architecture, labels and preprocessing
state.safetensors   weights, momentum and position, for resuming
metrics.jsonl       one line per epoch
curves.png          a plot of the same figures
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD

from models.architectures import ResNet
from models.files import atomic_write
from models.training import checkpoint
from models.training.checkpoint import CheckpointError
from models.training.plots import plot_curves

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


class RunDirectory:
    """The folder of one run.

    Args:
        folder: created with the first file.
        identity: all values that decide the run's result; a state with another identity cannot be resumed.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.checkpoint = folder / "model.safetensors"
        self._state = folder / "state.safetensors"
        self._metrics = folder / "metrics.jsonl"
        self._identity = json.loads(json.dumps(identity))

    def save_state(self, state: TrainingState) -> None:
        """Write the state for `resume`, atomically."""
        tensors = {f"model.{key}": value for key, value in state.model.state_dict().items()}
        for key, parameter in state.model.named_parameters():
            if (momentum := state.optimizer.state[parameter].get("momentum_buffer")) is not None:
                tensors[f"momentum.{key}"] = momentum
        header = json.dumps({"identity": self._identity, "position": state.position}, sort_keys=True)
        checkpoint.save_tensors(tensors, self._state, {"state": header})

    def resume(self, state: TrainingState) -> list[dict[str, Any]]:
        """Restore the saved state, if there is one, and return the figures of the finished epochs.

        Raises:
            CheckpointError: the saved state is damaged, or belongs to another recipe or other data.
        """
        if not self._state.exists():
            return []
        tensors, metadata = checkpoint.load_tensors(self._state)
        header = json.loads(metadata["state"])
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
        finished = self._metrics.read_text().splitlines()[: state.epoch] if state.epoch else []
        return [json.loads(line) for line in finished]

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write the figures of all epochs as JSON lines and as a plot."""
        atomic_write(self._metrics, "".join(json.dumps(figures) + "\n" for figures in history).encode())
        plot_curves(history, self.folder / "curves.png")
