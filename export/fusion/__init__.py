"""Whether a runtime computes the residual additions inside its convolution kernels.

An addition on its own reads and writes the whole feature map once more; fused, it costs one read. Every runtime tells
what it made of a graph in a form of its own: one reader a runtime, and they all give a `FusionReport`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from models.artifact.manifest import FusionReport, Precision, UnfusedAdd

Reader = Callable[[Path], FusionReport]
"""What a module of this package calls `report`."""


@dataclass(frozen=True)
class Runtime:
    """A runtime whose report can be read."""

    module: str
    package: str
    """What must be installed."""
    fuses: Mapping[tuple[str, Precision], bool]
    """The artifacts (format, precision) that it is asked about, and whether it can fuse the additions in them."""


RUNTIMES = {
    "onnxruntime-cpu": Runtime(
        "onnxruntime", "onnxruntime", {("onnx", "float32"): True, ("onnx-onnxruntime", "int8"): False}
    ),
    "openvino": Runtime("openvino", "openvino", {("onnx", "float32"): True, ("onnx", "int8"): True}),
    "tensorrt-rtx": Runtime("tensorrt_rtx", "tensorrt_rtx", {("onnx", "float32"): True, ("onnx", "float16"): True}),
}


def reports(path: Path, kind: tuple[str, Precision]) -> dict[str, FusionReport]:
    """What each runtime that is installed here makes of an artifact (format, precision)."""
    found = {}
    for name, runtime in RUNTIMES.items():
        if kind in runtime.fuses and importlib.util.find_spec(runtime.package):
            read: Reader = importlib.import_module(f"export.fusion.{runtime.module}").report
            found[name] = read(path)
    return found


def report_of(
    path: Path, kernels: Mapping[str, str], is_convolution: Callable[[str], bool], part: str = "kernel"
) -> FusionReport:
    """The report of a runtime that tells what computes each node.

    Args:
        path: the model.
        kernels: type of what computes a node, by the node's name.
        is_convolution: whether a type is that of a convolution.
        part: what the runtime calls these.
    """
    adds = [node.name for node in residual_adds(onnx.load(path, load_external_data=False).graph)]
    unfused = tuple(
        UnfusedAdd(node=name, reason=f"computed by a {part} of type {kernels.get(name, 'unknown')}")
        for name in adds
        if not is_convolution(kernels.get(name, ""))
    )
    return FusionReport(residual_adds=len(adds), fused=len(adds) - len(unfused), unfused=unfused)


def residual_adds(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Additions of two computed tensors; adding a constant is a bias, not a shortcut."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return [
        node
        for node in graph.node
        if node.op_type in {"Add", "Sum"} and sum(name not in constants for name in node.input) >= 2
    ]
