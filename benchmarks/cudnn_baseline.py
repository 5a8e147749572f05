"""The baseline of the CUDA engine: cuDNN, called per convolution by PyTorch in float16, and the ceilings of the GPU.

A convolution, the residual addition behind it and the ReLU behind that are one kernel where cuDNN has one. Each batch
size has a CUDA graph. It needs PyTorch for CUDA.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from models.artifact import manifest
from service import executors
from service.executors.base import ExecutorError, Source
from service.executors.gpu.streams import CudaExecutor, opened
from service.executors.torch import TorchProgram
from service.executors.torch_graph.network import Network

BATCHES = (1, 64, 128, 256)
_SIZE = 8192
"""Rows and columns of the matrices."""
_ROUNDS = 20


class CudnnExecutor(CudaExecutor):
    """Computes a graph on the first GPU; all streams share the weights.

    Raises:
        ExecutorError: there is no GPU, or no PyTorch for it.
    """

    def __init__(self, source: Source) -> None:
        with opened("cudnn", "0", RuntimeError) as device:
            if torch.version.cuda is None:
                raise ExecutorError("the cuDNN baseline needs a PyTorch that is built for CUDA")
            super().__init__(device, BATCHES)
            network = Network(source, torch.device(device.name), fuse=True)
            torch.cuda.synchronize(device.name)  # the other streams do not wait for the one that made the weights
            image = source.manifest.preprocess.shape
            self._open_streams(image, lambda stream: TorchProgram(network, image, device.name, stream))


def load(version: Path) -> CudnnExecutor:
    """The baseline of a version, from its float16 file.

    Raises:
        ExecutorError: as `CudnnExecutor`, or the version has no such file.
    """
    described = manifest.read(version)
    artifact = executors.find("torch:0").select_artifact(described, "float16")
    return CudnnExecutor(Source(version, described, artifact, "float16", 1, "0"))


def matrix_ceilings(_: object = None) -> dict[str, float]:
    """Operations per second of products of large matrices by cuBLAS, in float16 and int8.

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
