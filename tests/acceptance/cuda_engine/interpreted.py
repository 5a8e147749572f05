"""Line 1: networks of the table in Triton's interpreter, against ONNX Runtime and integer arithmetic."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from models.artifact.manifest import Precision
from models.artifact.parity import MAX_LOGIT_ERROR
from tests.acceptance.suites import pytest_counts
from tests.support.interpreter.process import Interpreted, by_onnxruntime, integer_convolutions, interpret
from tests.support.kernel_networks import NetworkFiles, write_network
from tests.support.thorough import VARIABLE

NETWORKS = ("resnet18", "resnet50", "resnet152", "resnet20", "resnet56", "preact-resnet56")
SIZE, BATCH = 64, 3
PRECISIONS: tuple[Precision, ...] = ("float16", "int8")
LARGE = ("resnet50", 224, 1)
"""One network at its usual size."""


def check() -> tuple[bool, str]:
    """Compare the logits of each network, and each int8 convolution with the integer reference."""
    cases = [(arch, SIZE, BATCH) for arch in NETWORKS] + [LARGE]
    holds, convolutions, worst = True, 0, dict[Precision, float]()
    for arch, size, batch in cases:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            files = write_network(arch, Path(folder), size=size, select=True)
            figures = []
            for precision in PRECISIONS:
                error, found = _compare(files, precision, batch, Path(folder))
                holds = holds and error <= MAX_LOGIT_ERROR[precision]
                worst[precision] = max(error, worst.get(precision, 0.0))
                figures.append(f"{precision} {error:.1e}")
                if precision == "int8":
                    holds = holds and found.compared == integer_convolutions(files.int8) and not found.different
                    convolutions += len(found.compared)
                    figures.append(f"{len(found.compared)} int8 convolutions, {len(found.different)} differ")
            seconds = time.monotonic() - started
            print(f"  {arch} at {size}, batch {batch}: {', '.join(figures)}, {seconds:.0f} s", flush=True)
    bounds = ", ".join(f"{key} {error:.1e} (bound {MAX_LOGIT_ERROR[key]:.0e})" for key, error in worst.items())
    passed, counts = pytest_counts("tests/integration/test_cuda_kernels.py", **{VARIABLE: "1"})
    large = f"{len(cases)} networks, largest error of the logits {bounds}; {convolutions} int8 convolutions exact"
    return holds and passed, f"{large}; small networks of each kind: {counts}"


def _compare(files: NetworkFiles, precision: Precision, batch: int, folder: Path) -> tuple[float, Interpreted]:
    """The error of the logits as `models.artifact.parity` defines it, and everything that the interpreter computed.

    The spread of the logits is that over all photographs: three images would not tell it.
    """
    file = files.of(precision)
    expected = by_onnxruntime(file, files.images)["logits"].astype(np.float64)
    spread = float(np.std(expected, axis=0).mean())
    found = interpret(file, precision, "maps", files.images[:batch], folder)
    difference = np.abs(found.outputs["logits"] - expected[:batch])
    error = float(np.sqrt(np.mean(difference**2))) if precision == "int8" else float(difference.max())
    return error / spread, found
