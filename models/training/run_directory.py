"""A run's folder, and how a run that was stopped goes on.

model.safetensors   the checkpoint: weights of the last finished epoch, and what they are
state.safetensors   weights, momentum and position: all that resuming needs
metrics.jsonl       one line an epoch
curves.png          the same, to look at
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD

from models.architectures import ResNet
from models.training import checkpoint
from models.training.checkpoint import CheckpointError
from models.training.plots import plot_curves


@dataclass
class State:
    """Where a run is: `step` batches of `epoch` are done."""

    model: ResNet
    optimizer: SGD
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0

    @property
    def position(self) -> dict[str, float]:
        """All but the tensors."""
        return {key: getattr(self, key) for key in ("epoch", "step", "loss_sum", "correct", "seen")}


class Run:
    """The folder of one run.

    Args:
        folder: made when something is written.
        identity: what decides the run's numbers; a saved state of another identity is not gone on with.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.checkpoint = folder / "model.safetensors"
        self._state = folder / "state.safetensors"
        self._metrics = folder / "metrics.jsonl"
        self._identity = json.loads(json.dumps(identity))

    def save_state(self, state: State) -> None:
        """Write all that `resume` needs, atomically."""
        tensors = {f"model.{key}": value for key, value in state.model.state_dict().items()}
        for key, parameter in state.model.named_parameters():
            if (momentum := state.optimizer.state[parameter].get("momentum_buffer")) is not None:
                tensors[f"momentum.{key}"] = momentum
        header = json.dumps({"identity": self._identity, "position": state.position}, sort_keys=True)
        checkpoint.save_tensors(tensors, self._state, {"state": header})

    def resume(self, state: State) -> list[dict[str, Any]]:
        """Bring a fresh state to where the run was saved, and give the figures of its finished epochs.

        Where nothing was saved yet the state stays as it is.

        Raises:
            CheckpointError: the saved state is damaged, or of another recipe or other data.
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
            setattr(state, key, value)
        finished = self._metrics.read_text().splitlines()[: state.epoch] if state.epoch else []
        return [json.loads(line) for line in finished]

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write the figures of all epochs, as lines and as a picture."""
        self._metrics.write_text("".join(json.dumps(figures) + "\n" for figures in history))
        plot_curves(history, self.folder / "curves.png")
