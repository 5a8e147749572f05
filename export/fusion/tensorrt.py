"""Reads TensorRT's descriptions of engines, which name the ONNX nodes of each layer. Needs no TensorRT.

The engine inspector returns JSON. In TensorRT 10 and in 11, a layer is an object with `Name`, `LayerType` and
`Metadata`; the parts that changed between them (`Bindings`, and the types of tensors) are not read. TensorRT for RTX
has an inspector too, but it needs a GPU; its log lists the layers during a build:

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
    """The text does not describe the layers of an engine with detailed profiling."""


def read_inspection(text: str, path: Path) -> FusionReport:
    """The fusion report of an engine.

    Args:
        text: JSON of `IEngineInspector.get_engine_information`.
        path: ONNX file that the engine was built from.

    Raises:
        UnreadableInspection: the text has another form, or layer names only.
    """
    return _report(path, {node: kind for name, kind, metadata in _layers(text) for node in _nodes(name, metadata)})


def read_log(text: str, path: Path) -> FusionReport:
    """The fusion report from the log of TensorRT for RTX.

    Raises:
        UnreadableInspection: the log lists no layers.
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
            "the inspector's text has no layer types: build the engine with ProfilingVerbosity.DETAILED"
        ) from error


def _nodes(name: str, metadata: str) -> list[str]:
    return _NODE.findall(metadata) or _PART.split(name)
