"""Whether a runtime computes the residual additions inside its convolution kernels.

An addition on its own reads and writes the whole feature map once more; fused, it costs one read. One reader a runtime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime as ort

from models.manifest import FusionReport, UnfusedAdd

_CONVOLUTIONS = {"Conv", "FusedConv"}
_SUM_INPUT = 3  # com.microsoft(.nchwc) convolutions: X, W, B, Sum


def residual_adds(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Additions of two computed tensors; adding a constant is a bias, not a shortcut."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return [
        node
        for node in graph.node
        if node.op_type in {"Add", "Sum"} and sum(name not in constants for name in node.input) >= 2
    ]


def onnxruntime_cpu(path: Path) -> FusionReport:
    """Read ONNX Runtime's own optimised graph of a model, as its CPU provider executes it."""
    before = onnx.load(path).graph
    after = _optimised_by_onnxruntime(path)
    remaining = residual_adds(after)
    producers = {name: node for node in after.node for name in node.output}
    unfused = tuple(UnfusedAdd(node=node.name, reason=_reason(node, producers)) for node in remaining)
    fused = sum(
        node.op_type in _CONVOLUTIONS and len(node.input) > _SUM_INPUT and bool(node.input[_SUM_INPUT])
        for node in after.node
    )
    return FusionReport(residual_adds=len(residual_adds(before)), fused=fused, unfused=unfused)


def _optimised_by_onnxruntime(path: Path) -> onnx.GraphProto:
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3  # it warns that the written file fits this machine only; so it should
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath).graph


def _reason(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> str:
    kinds = [producers[name].op_type if name in producers else "the input" for name in node.input]
    if any(kind in _CONVOLUTIONS for kind in kinds):
        return f"adds the outputs of {_listed(kinds)}, and the runtime did not join it with the convolution"
    return f"adds the outputs of {_listed(kinds)}: none is a convolution"


def _listed(kinds: Iterable[str]) -> str:
    return " and ".join(kinds)
