"""One step of training; on a device without memory: what it copies there, and how."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.training_step import RECIPES, prepared

DEVICE = torch.device("meta")


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
    step, batches = prepared(RECIPES[name], DEVICE)
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
    _, (batch, _) = prepared(RECIPES[name], DEVICE)
    batch.pin_memory()
    tensors = [batch.images, batch.labels, batch.depth_draws, *(batch.mixture or ())]
    assert sorted(pinned) == sorted(map(id, tensors))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler warns of parts of PyTorch that it uses itself
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same() -> None:
    recipe = replace(RECIPES["mixed"], compute="float32")
    cpu = torch.device("cpu")
    weights = []
    for compiled in (False, True):
        step, batches = prepared(replace(recipe, compile=compiled), cpu)
        for batch in batches:
            step(batch)
        weights.append(step.state.model.state_dict())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
