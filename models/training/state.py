"""The state of a run: everything that a step changes, and its form on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from models.architectures import ResNet
from models.training.optim.ema import AveragedWeights

_POSITION = ("epoch", "step", "images_done")
_TIMES = ("seconds", "waited")


def _zeros() -> Tensor:
    return torch.zeros(2, dtype=torch.float64)


@dataclass
class TrainingState:
    """Network, optimiser and position of a run: `step` batches of `epoch` are done."""

    model: ResNet
    optimizer: Optimizer
    averaged: AveragedWeights | None = None
    scaler: GradScaler | None = None
    """Scale of the loss in float16."""
    epoch: int = 0
    step: int = 0
    images_done: int = 0
    """Images of the epoch."""
    seconds: float = 0.0
    """Time that the steps of the epoch took."""
    waited: float = 0.0
    """Seconds of it spent waiting for images."""
    sums: Tensor = field(default_factory=_zeros)
    """Loss and number of correct images, summed over the epoch's images, float64 [2], on the device of the network."""

    @property
    def evaluated(self) -> ResNet:
        """The network that is evaluated and exported: the averaged one, if there is one."""
        return self.model if self.averaged is None else self.averaged.model

    def next_epoch(self) -> None:
        """Move to the beginning of the next epoch."""
        self.epoch, self.step, self.images_done = self.epoch + 1, 0, 0
        self.seconds = self.waited = 0.0
        self.sums.zero_()

    def header(self) -> dict[str, Any]:
        """The values that are no tensors, for JSON."""
        header: dict[str, Any] = {key: getattr(self, key) for key in _POSITION + _TIMES}
        header["sums"] = self.sums.tolist()
        if self.scaler is not None:
            header["scaler"] = self.scaler.state_dict()
        return header

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averages and the state of the optimiser, by name."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged.{key}": value for key, value in self.averaged.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                if value is not None:
                    tensors[f"optimizer.{key}.{name}"] = value
        return tensors

    def restore(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from what `header` and `tensors` gave."""
        self.model.load_state_dict(_below("model.", tensors))
        if self.averaged is not None:
            self.averaged.model.load_state_dict(_below("averaged.", tensors))
        parameters = dict(self.model.named_parameters())
        for place, value in _below("optimizer.", tensors).items():
            key, _, name = place.partition(".")
            parameter = parameters[name]
            if value.shape == parameter.shape:
                # The momentum of a channels_last weight is channels_last: the update then adds in the same order.
                value = torch.empty_like(parameter).copy_(value).detach()
            elif self.optimizer.defaults.get("fused"):
                value = value.to(parameter.device)
            self.optimizer.state[parameter][key] = value
        for key in _POSITION:
            setattr(self, key, header[key])
        for key in _TIMES:
            setattr(self, key, header.get(key, 0.0))  # older states do not have them
        self.sums.copy_(torch.tensor(header["sums"], dtype=torch.float64))
        if self.scaler is not None:
            self.scaler.load_state_dict(header["scaler"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
