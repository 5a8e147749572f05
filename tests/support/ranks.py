"""Several processes on this machine that train together, as torchrun starts them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing

from models.training.distributed.processes import join


def run_together(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(processes, *arguments)` in each of `count` processes; an error of one is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_run, (count, port, function, arguments), count)  # type: ignore[attr-defined, no-untyped-call]


def torchrun_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _run(rank: int, count: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= torchrun_environment(rank, count, port)
    torch.set_num_threads(1)
    with join() as processes:
        function(processes, *arguments)
