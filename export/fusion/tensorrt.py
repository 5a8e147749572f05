"""TensorRT names the ONNX nodes that each layer of an engine computes. Reading it takes no TensorRT.

The engine inspector gives JSON: in TensorRT 10 and 11 alike a layer is an object with `Name`, `LayerType` and
`Metadata`; what changed between them (`Bindings`, and how tensors give their type) is not looked at. TensorRT for RTX
has an inspector too, but no engine to inspect without a GPU; its log lists the layers when one is built:

    Name: node_conv2d_2_myl0_4, LayerType: correlation, …, Metadata: [ONNX Layer: node_conv2d_2][ONNX Layer: node_add]
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from export.errors import EngineError
from export.fusion import report_of
from models.artifact.manifest import FusionReport

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_LOGGED = re.compile(r"^Name: .*?, LayerType: (?P<kind>[^,]*),.*?Metadata: (?P<nodes>.*)$", re.MULTILINE)
_PART = re.compile(r" \+ | \|\| ")  # vertical and horizontal fusion
# CaskConvolution, CaskConvActPool, CaskGemmConvolution; Myelin calls a convolution correlation.
_CONVOLUTION = re.compile(r"conv|correlation", re.IGNORECASE)


class UnreadableInspection(EngineError):
    """The text does not tell the layers of an engine that was built with detailed profiling."""


def read_inspection(text: str, path: Path) -> FusionReport:
    """What an engine makes of the additions in the model that it was built from.

    Args:
        text: `IEngineInspector.get_engine_information` in JSON.
        path: the ONNX file.

    Raises:
        UnreadableInspection: no such text, or names only.
    """
    return _report(path, {node: kind for name, kind, metadata in _layers(text) for node in _nodes(name, metadata)})


def read_log(text: str, path: Path) -> FusionReport:
    """The same of the layers that TensorRT for RTX logs.

    Raises:
        UnreadableInspection: the text lists none.
    """
    kernels = {node: found["kind"] for found in _LOGGED.finditer(text) for node in _NODE.findall(found["nodes"])}
    if not kernels:
        raise UnreadableInspection(f"{path.name}: the log of the build lists no layers")
    return _report(path, kernels)


def _report(path: Path, kernels: dict[str, str]) -> FusionReport:
    return report_of(path, kernels, lambda kind: _CONVOLUTION.search(kind) is not None, "layer")


def _layers(text: str) -> list[tuple[str, str, str]]:
    """Name, type and metadata of each layer."""
    try:
        layers = json.loads(text)["Layers"]
        return [(layer["Name"], layer["LayerType"], layer.get("Metadata", "")) for layer in layers]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UnreadableInspection(
            "the inspector's text tells no layer types: build the engine with ProfilingVerbosity.DETAILED"
        ) from error


def _nodes(name: str, metadata: str) -> list[str]:
    return _NODE.findall(metadata) or _PART.split(name)
