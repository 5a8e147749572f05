"""Run the convolutions of a network in several configurations in Triton's interpreter, on inputs to measure with.

    TRITON_INTERPRET=1 python -m tests.support.interpreter.candidates NETWORK.onnx PRECISION

Prints a JSON list per convolution: whether each output agrees with the first, and how many values of it are not zero.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from export.kernels.measuring import tensors
from export.kernels.network import Convolution, Network
from export.kernels.packing.candidates import draft_candidates
from export.kernels.packing.convolutions import problem_of
from export.kernels.reading.reader import read
from export.kernels.tiles import INTERPRETER, KernelTarget, Tile, fits
from models.imaging.preprocess import UInt8Array
from models.runtime.cuda_engine.file import CudaEngine
from tests.support.interpreter import corrections
from tests.support.interpreter.launcher import Memory, interpret

BATCH = 2
TILES = (
    Tile(True, 64, 32, 32, 4, 2),
    Tile(False, 64, 32, 32, 4, 2),
    Tile(True, 32, 64, 32, 4, 2),
    Tile(False, 32, 32, 64, 4, 2),
    Tile(False, 128, 32, 32, 4, 2),
)


def main() -> None:
    """Do it."""
    network_file, precision = sys.argv[1:]
    corrections.apply()
    network = read(Path(network_file))
    print(json.dumps([_compare(network, conv, precision) for conv in network.convolutions]))


def _compare(network: Network, conv: Convolution, precision: str) -> list[tuple[bool, int]]:
    target = KernelTarget(INTERPRETER, tensor_maps=True)
    options = (network, conv, precision, target, BATCH)
    problem = problem_of(draft_candidates(*options, TILES[1:2], INTERPRETER).context, conv)  # type: ignore[arg-type]
    tiles = [tile for tile in TILES if fits(tile, problem, target)]
    drafted = draft_candidates(*options, tiles, INTERPRETER)  # type: ignore[arg-type]
    plan = drafted.planned.plan
    engine = CudaEngine(plan, memoryview(drafted.planned.weights))
    memory = Memory(engine, plan.programs[0], np.zeros(0, np.uint8))
    places = {buffer.name: content for buffer, content in zip(memory.program.buffers, memory.buffers, strict=True)}
    for name, content in tensors.inputs(drafted.context, conv).items():
        places[name].copy_(torch.from_numpy(content))
    results: list[dict[str, UInt8Array]] = []
    for launch in memory.program.launches:
        for form in conv.forms:
            places[form.name].zero_()
        interpret(engine, memory, launch)
        results.append({form.name: places[form.name].numpy().copy() for form in conv.forms})
    return [
        (tensors.agree(drafted.context, conv, results[0], each), int(np.count_nonzero(each[conv.forms[0].name])))
        for each in results
    ]


if __name__ == "__main__":
    main()
