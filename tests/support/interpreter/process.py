"""Starts the interpreter in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from models.artifact.manifest import INPUT
from models.imaging.preprocess import UInt8Array

AVAILABLE = importlib.util.find_spec("triton") is not None
WHY_NOT = "needs the extra kernels"
_ROOT = Path(__file__).parents[3]

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Interpreted:
    """Outputs of the interpreter, and the comparison with integers."""

    outputs: Outputs
    compared: set[str]
    """Names of the int8 convolutions that were compared with the integer reference."""
    different: list[str]
    """Names of forms of convolutions and pools with an element that differs from it."""


def interpret(network: Path, precision: str, loads: str, images: UInt8Array, folder: Path) -> Interpreted:
    """Run a network's plan on images; the files that pass between the processes are in a folder."""
    given, made = folder / "images.npy", folder / f"{network.name}-{precision}-{loads}.npz"
    np.save(given, images)
    command = [sys.executable, "-m", "tests.support.interpreter", str(network), precision, loads, str(given), str(made)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    with np.load(made) as found:
        outputs = {name: found[name] for name in found.files if name not in ("compared", "different")}
        return Interpreted(outputs, set(found["compared"].tolist()), found["different"].tolist())


def compare_candidates(network: Path, precision: str) -> list[list[tuple[bool, int]]]:
    """Run the convolutions of a network in several configurations, on the inputs that are used to measure them.

    Returns:
        For each convolution and configuration, whether the output agrees with that of the first one, and how many of
        its values are not zero.
    """
    command = [sys.executable, "-m", "tests.support.interpreter.candidates", str(network), precision]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    found: list[list[tuple[bool, int]]] = json.loads(done.stdout)
    return found


def by_onnxruntime(network: Path, images: UInt8Array) -> Outputs:
    """All outputs by ONNX Runtime, node by node as the file has them.

    Its optimiser would replace the arithmetic of an int8 file by other roundings.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: images}), strict=True))


def integer_convolutions(network: Path) -> set[str]:
    """Names of the convolutions whose weight an ONNX file has as integers."""
    graph = onnx.load(network).graph
    rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in rounded}
