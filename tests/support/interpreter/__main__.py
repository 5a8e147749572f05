"""Run an ONNX file's launch plan in Triton's interpreter, and write its outputs and the result of the integer check.

    TRITON_INTERPRET=1 python -m tests.support.interpreter NETWORK.onnx PRECISION LOADS IMAGES.npy OUTPUTS.npz

LOADS is `maps` for kernels with tensor maps, or `pointers`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from export.kernels.packing.planner import draft
from export.kernels.reading.reader import read
from export.kernels.tiles import INTERPRETER, KernelTarget
from models.runtime.cuda_engine.file import pack
from tests.support.interpreter.checks import IntegerCheck
from tests.support.interpreter.launcher import run


def main() -> None:
    """Do it."""
    network_file, precision, loads, images_file, outputs_file = sys.argv[1:]
    network, images = read(Path(network_file)), np.load(images_file)
    target = KernelTarget(INTERPRETER, tensor_maps=loads == "maps")
    drafted = draft(network, precision, target, (len(images),), "0" * 64, INTERPRETER)  # type: ignore[arg-type]
    engine = pack(drafted.plan, drafted.weights, [])
    check = IntegerCheck(network, engine.plan)
    outputs = run(engine, images, check)
    np.savez(
        outputs_file,
        allow_pickle=False,
        **outputs,
        compared=np.array(sorted(check.compared)),
        different=np.array([name for name, count in check.different.items() if count]),
    )


if __name__ == "__main__":
    main()
