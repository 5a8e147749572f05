"""Checks portable files for parts that a runtime refuses or, worse, computes differently."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from export.errors import BuildError
from models.artifact.manifest import INPUT, OUTPUTS

_STANDARD = {"", "ai.onnx"}


def check_portable(path: Path, outputs: tuple[str, ...] = OUTPUTS, inputs: tuple[str, ...] = (INPUT,)) -> None:
    """Check that any runtime can load a file, and that its graph has these outputs and inputs.

    Raises:
        BuildError: the graph has operators outside the standard, which only one runtime knows, or unsigned zero-points,
            which TensorRT reads as signed with only a warning, or another signature.
    """
    model = onnx.load(path)
    graph = model.graph
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in graph.node if node.domain not in _STANDARD})
    if foreign:
        raise BuildError(f"{path.name}: has operators that only one runtime knows: {', '.join(foreign)}")
    unsigned = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.UINT8}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and unsigned.intersection(node.input[2:]):
            raise BuildError(f"{path.name}: {node.name} has an unsigned zero-point, which TensorRT reads as signed")
    signature = tuple(value.name for value in graph.input), tuple(value.name for value in graph.output)
    if signature != (inputs, outputs):
        raise BuildError(f"{path.name}: takes {signature[0]} and gives {signature[1]}")
