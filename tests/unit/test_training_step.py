"""One step of training, on a device without memory: what it copies there, and how."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from models.artifact.manifest import Architecture
from models.data import ArrayDataset
from models.imaging.preprocess import Preprocess
from models.training.augmentation.pipeline import Pipeline, TrainingBatch
from models.training.input.sampling import plan_epoch
from models.training.recipe import Recipe
from models.training.step import TrainingStep, start

DEVICE = torch.device("meta")
IMAGES = 16

RECIPES = {
    "plain": Recipe("tiny", epochs=2, batch_size=8),
    "mixed": Recipe("tiny", epochs=2, batch_size=8, mixup=0.2, cutmix=1.0, loss="bce", label_smoothing=0.1),
    "everything else": Recipe(
        "tiny", epochs=2, batch_size=8, accumulate=2, clip=1.0, ema=0.9, stochastic_depth=0.2, balance="weights",
        optimizer="adamw",
    ),
}  # fmt: skip


class BlockingCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]  # not in stubs
    """The copies for which a GPU would finish its work first.

    The other reason to wait, a value that Python reads, is an error on this device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # not in stubs
        self.found: list[str] = []
        self.copies = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = str(function)
        if name.startswith("aten._to_copy") and args[0].device != result.device:
            self.copies += 1
            if not kwargs.get("non_blocking"):
                self.found.append(f"{name} from {args[0].device} to {result.device}")
        elif name.startswith("aten.copy_") and args[0].device != args[1].device:
            self.found.append(f"{name} from {args[1].device} to {args[0].device}")
        return result


class NewTensors(TorchFunctionMode):
    """The calls that make a tensor of Python's numbers on the device, which copy it there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device") not in (None, "cpu"):
            self.found.append(f"{function.__name__}{args}")
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_does_not_wait_for_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The device has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    step, batches = prepared(RECIPES[name])
    step(batches[0])
    with BlockingCopies() as blocking, NewTensors() as new:
        step(batches[1])
    assert (blocking.found, new.found) == ([], [])
    assert blocking.copies >= 3  # images, labels and the draws


def test_the_test_sees_what_waits() -> None:
    values = torch.ones(3)
    with BlockingCopies() as blocking, NewTensors() as new:
        values.to(DEVICE, non_blocking=True)
        values.to(DEVICE)
        torch.empty(3, device=DEVICE).copy_(values)
        torch.tensor((0.5,), device=DEVICE)
        with pytest.raises(RuntimeError, match="item"):
            torch.ones(3, device=DEVICE).sum().item()
    assert [each.split(".")[1] for each in blocking.found] == ["_to_copy", "copy_"]
    assert len(new.found) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_all_tensors_of_a_batch_are_pinned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From memory that is not pinned, a GPU copies only when its work is done."""
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(id(tensor))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    _, (batch, _) = prepared(RECIPES[name])
    batch.pin_memory()
    tensors = [batch.images, batch.labels, batch.depth_draws, *(batch.mixture or ())]
    assert sorted(pinned) == sorted(map(id, tensors))


def prepared(recipe: Recipe) -> tuple[TrainingStep, list[TrainingBatch]]:
    """A step whose network is on the device, and the batches of an epoch in main memory."""
    array = np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 1), dtype=np.uint8)
    data = ArrayDataset("noise", ("a", "b", "c"), np.arange(IMAGES) % 3, array)
    preprocess = Preprocess(**data.geometry.model_dump(), mean=(0.5,), std=(0.2,))
    state = start(recipe, Architecture(name="tiny", num_classes=3, in_channels=1), DEVICE)
    step = TrainingStep(state, recipe, data, preprocess, DEVICE)
    pipeline = Pipeline(data, recipe, preprocess, step.blocks)
    return step, [pipeline.read(plan) for plan in plan_epoch(data.labels, recipe, 0)]
