"""The processes of one training, one per device, as torchrun starts them.

Their sums are the same bits in all processes, and in every run with the same number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")

_TIMEOUT = timedelta(days=1)
"""The first process may check and measure the images for hours while the others wait. An ended process is noticed at
once: its connections close, and torchrun ends the others."""


class ProcessesError(RuntimeError):
    """The processes cannot train together, or one of them has ended."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the training; alone by default."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process prints, and writes the run."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> Tensor:
        """Replace the values by their sums over the processes, and return them."""
        if self.count > 1:
            _together(dist.all_reduce, tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of the processes. Does not wait for a GPU."""
        return flag if self.count == 1 else bool(self.add(torch.tensor(int(flag))))

    def from_first(self, make: Callable[[], Value]) -> Value:
        """The value that `make` gives in the first process, where alone it is called."""
        values: list[Any] = [make() if self.first else None]
        if self.count > 1:
            _together(dist.broadcast_object_list, values, device=torch.device("cpu"))
        return values[0]  # type: ignore[no-any-return]

    def add_gradients(self, model: nn.Module) -> None:
        """Replace the gradient by its sum over the processes.

        DistributedDataParallel is not used: it changes its groups of weights after the first step of a process, so a
        resumed run of three or more processes would add in another order, and it does not know layers that are frozen
        for some epochs.
        """
        if self.count == 1:
            return
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        sums = self.add(torch.cat([each.flatten() for each in gradients]))
        parts = torch.split(sums, [each.numel() for each in gradients])
        for gradient, values in zip(gradients, parts, strict=True):
            gradient.copy_(values.view(gradient.shape))


def is_first() -> bool:
    """Whether this process prints, before it joins the others."""
    return os.environ.get("RANK", "0") == "0"


ALONE = Processes()


@contextmanager
def join() -> Iterator[Processes]:
    """Join the other processes, if torchrun started this one, and choose the GPU of this process.

    Raises:
        ProcessesError: there are more processes than GPUs, or the others are not reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise ProcessesError(f"there are more processes than GPUs: give --nproc-per-node {gpus}")
        torch.cuda.set_device(local)
        _together(dist.init_process_group, "cpu:gloo,cuda:nccl", timeout=_TIMEOUT)
    else:
        _together(dist.init_process_group, "gloo", timeout=_TIMEOUT)
    yield Processes(dist.get_rank(), dist.get_world_size())
    # After an error nothing is closed in order, for that would wait for processes that have ended.
    dist.destroy_process_group()


def _together(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    try:
        function(*arguments, **options)
    except (RuntimeError, ValueError) as error:
        raise ProcessesError(
            "another process of this training has ended or cannot be reached: see its own message; "
            "begin all of them again, with --resume"
        ) from error
