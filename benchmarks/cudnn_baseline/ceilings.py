"""Products of large matrices by cuBLAS: the arithmetic that a GPU can do."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from service.executors.base import ExecutorError

_SIZE = 8192
"""Rows and columns of the matrices."""
_ROUNDS = 20


def matrix_ceilings(_: object = None) -> dict[str, float]:
    """Operations per second of products of matrices, in float16 and int8.

    Raises:
        ExecutorError: there is no PyTorch for a GPU.
    """
    if torch.version.cuda is None or not torch.cuda.is_available():
        raise ExecutorError("products of matrices are measured by a PyTorch that is built for CUDA")
    half = torch.randn(_SIZE, _SIZE, dtype=torch.float16, device="cuda")
    small = torch.randint(-127, 128, (_SIZE, _SIZE), dtype=torch.int8, device="cuda")
    return {
        "float16": _rate(lambda: half @ half),
        "int8": _rate(lambda: torch._int_mm(small, small.t())),
    }


def _rate(multiply: Callable[[], object]) -> float:
    """Operations per second of a product of matrices."""
    for _ in range(3):
        multiply()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        multiply()
    torch.cuda.synchronize()
    return 2 * _SIZE**3 * _ROUNDS / (time.perf_counter() - started)
