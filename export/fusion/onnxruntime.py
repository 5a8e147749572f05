"""Reads the optimised graph that ONNX Runtime writes to a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from export.fusion import residual_adds
from models.artifact.manifest import FusionReport, UnfusedAdd
from models.runtime.onnxruntime import ort

_CONVOLUTIONS = {"Conv", "FusedConv", "QLinearConv"}
_SUM_INPUT = 3  # com.microsoft(.nchwc) convolutions: X, W, B, Sum


def report(path: Path, provider: str = "CPUExecutionProvider") -> FusionReport:
    """Read the optimised graph of a model."""
    after = _optimised(path, provider)
    producers = {name: node for node in after.node for name in node.output}
    integer = [node for node in after.node if node.op_type == "QLinearAdd"]
    remaining = residual_adds(after)
    fused = sum(
        node.op_type in {"Conv", "FusedConv"} and len(node.input) > _SUM_INPUT and bool(node.input[_SUM_INPUT])
        for node in after.node
    )
    return FusionReport(
        residual_adds=len(residual_adds(onnx.load(path, load_external_data=False).graph)),
        fused=fused,
        unfused=tuple(
            [UnfusedAdd(node=node.name, reason="an integer addition of its own (QLinearAdd)") for node in integer]
            + [UnfusedAdd(node=node.name, reason=_reason(node, producers)) for node in remaining]
        ),
    )


def _optimised(path: Path, provider: str) -> onnx.GraphProto:
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3  # without the warning that the file is for this machine only
        ort.InferenceSession(str(path), options, providers=[provider])
        return onnx.load(options.optimized_model_filepath).graph


def _reason(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> str:
    kinds = [producers[name].op_type if name in producers else "the input" for name in node.input]
    if _CONVOLUTIONS.intersection(kinds):
        return f"adds the outputs of {' and '.join(kinds)}, and the runtime did not fuse it into the convolution"
    return f"adds the outputs of {' and '.join(kinds)}: none is a convolution"
