"""Exponential moving average of the weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017)."""

from __future__ import annotations

import copy

import torch

from models.architectures import ResNet


class AveragedWeights:
    """A network whose weights and statistics of batch normalisation are averages over the updates of another one.

    Args:
        model: the network in training, on its device.
        decay: share of the average that an update keeps.
    """

    def __init__(self, model: ResNet, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        # Listing the tensors of a network takes longer than averaging those of a small one.
        averages, values = self.model.state_dict(), model.state_dict()
        floating = [key for key, value in averages.items() if value.is_floating_point()]
        others = [key for key in averages if key not in floating]  # the numbers of batches
        self._averages, self._values = [averages[key] for key in floating], [values[key] for key in floating]
        self._copies, self._originals = [averages[key] for key in others], [values[key] for key in others]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Add the weights after `updates` updates.

        The first averages forget the random weights of the start: the decay is (1 + n) / (10 + n) at most, as in
        TensorFlow's `ExponentialMovingAverage`.
        """
        decay = min(self._decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        if self._copies:
            torch._foreach_copy_(self._copies, self._originals)
