"""Reports whether a runtime computes the residual additions inside its convolution kernels.

A separate addition reads and writes the whole feature map once more; a fused one costs one read. Each runtime describes
its graph in a form of its own, so there is one reader per runtime, which returns a `FusionReport`.
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
"""The function `report` of a module of this package."""


@dataclass(frozen=True)
class FusionRuntime:
    """A runtime with a reader."""

    module: str
    package: str
    """Package that must be installed."""
    fuses: Mapping[tuple[str, Precision], bool]
    """Artifacts (format, precision) that are reported, and whether the runtime can fuse their additions."""


RUNTIMES = {
    "onnxruntime-cpu": FusionRuntime(
        "onnxruntime", "onnxruntime", {("onnx", "float32"): True, ("onnx-onnxruntime", "int8"): False}
    ),
    "openvino": FusionRuntime("openvino", "openvino", {("onnx", "float32"): True, ("onnx", "int8"): True}),
    "tensorrt-rtx": FusionRuntime(
        "tensorrt_rtx", "tensorrt_rtx", {("onnx", "float32"): True, ("onnx", "float16"): True}
    ),
}


def reports(path: Path, kind: tuple[str, Precision], *, all_runtimes: bool = True) -> dict[str, FusionReport]:
    """The report of each installed runtime about an artifact (format, precision).

    Args:
        path: ONNX file.
        kind: format and precision.
        all_runtimes: False leaves out the runtimes that cannot load the file.
    """
    found = {}
    for name, runtime in RUNTIMES.items():
        if kind in runtime.fuses and importlib.util.find_spec(runtime.package):
            read: Reader = importlib.import_module(f"export.fusion.{runtime.module}").report
            try:
                found[name] = read(path)
            except Exception:  # the runtimes' exceptions have no common base
                if all_runtimes:
                    raise
    return found


def report_of(
    path: Path, kernels: Mapping[str, str], is_convolution: Callable[[str], bool], part: str = "kernel"
) -> FusionReport:
    """The report of a runtime that names the kernel of each node.

    Args:
        path: ONNX file.
        kernels: type of the kernel that computes a node, by the node's name.
        is_convolution: whether a type is a convolution.
        part: the runtime's word for a kernel.
    """
    adds = [node.name for node in residual_adds(onnx.load(path, load_external_data=False).graph)]
    unfused = tuple(
        UnfusedAdd(node=name, reason=f"computed by a {part} of type {kernels.get(name, 'unknown')}")
        for name in adds
        if not is_convolution(kernels.get(name, ""))
    )
    return FusionReport(residual_adds=len(adds), fused=len(adds) - len(unfused), unfused=unfused)


def residual_adds(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Additions of two computed tensors; the addition of a constant is a bias, not a shortcut."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return [
        node
        for node in graph.node
        if node.op_type in {"Add", "Sum"} and sum(name not in constants for name in node.input) >= 2
    ]
