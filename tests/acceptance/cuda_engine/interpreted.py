"""Line 1: networks of the table in Triton's interpreter, against ONNX Runtime and integer arithmetic."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from models.artifact import parity
from models.artifact.parity import MAX_LOGIT_ERROR, ParityError, bounded_error
from tests.support.interpreter.process import by_onnxruntime, integer_convolutions, interpret
from tests.support.kernel_networks import write_network

NETWORKS = ("resnet18", "resnet50", "resnet152", "resnet20", "resnet56", "preact-resnet56")
SIZE, BATCH = 64, 3
LARGE = ("resnet50", 224, 1)
"""One network at its usual size."""


def check() -> tuple[bool, str]:
    """Compare the logits of each network, and each int8 convolution with the integer reference."""
    cases = [(arch, SIZE, BATCH) for arch in NETWORKS] + [LARGE]
    holds, convolutions, worst = True, 0, dict[str, float]()
    for arch, size, batch in cases:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            files = write_network(arch, Path(folder), size=size)
            images = files.images[: max(batch, 2)]
            figures = []
            for precision in ("float16", "int8"):
                found = interpret(files.of(precision), precision, "maps", images, Path(folder))
                expected = by_onnxruntime(files.of(precision), images)
                try:
                    compared = parity.check(found.outputs["logits"], expected["logits"], precision)
                    error = bounded_error(compared, precision)
                except ParityError as problem:
                    holds, error = False, float("inf")
                    print(f"{arch} {precision}: {problem}", flush=True)
                worst[precision] = max(error, worst.get(precision, 0.0))
                figures.append(f"{precision} {error:.1e}")
                if precision == "int8":
                    whole = found.compared == integer_convolutions(files.int8)
                    holds = holds and whole and not found.different
                    convolutions += len(found.compared)
                    figures.append(f"{len(found.compared)} int8 convolutions, {len(found.different)} differ")
            seconds = time.monotonic() - started
            print(f"  {arch} at {size}, batch {len(images)}: {', '.join(figures)}, {seconds:.0f} s", flush=True)
    bounds = ", ".join(f"{key} {error:.1e} (bound {MAX_LOGIT_ERROR[key]:.0e})" for key, error in worst.items())  # type: ignore[index]
    return holds, f"{len(cases)} networks, largest error of the logits {bounds}; {convolutions} int8 convolutions exact"
