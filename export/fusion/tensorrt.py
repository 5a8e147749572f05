"""TensorRT's engine inspector names the ONNX nodes that each layer of an engine computes. Reading it takes no TensorRT.

In TensorRT 10 and 11 alike a layer is an object with `Name`, `LayerType` and `Metadata`; what changed between them
(`Bindings`, and how tensors give their type) is not looked at. Engines for one machine are built with it, so this is
no part of an exported version.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from export.fusion import report_of
from models.manifest import FusionReport

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_PART = re.compile(r" \+ | \|\| ")  # vertical and horizontal fusion
# CaskConvolution, CaskConvActPool, CaskGemmConvolution; Myelin calls a convolution correlation.
_CONVOLUTION = re.compile(r"conv|correlation", re.IGNORECASE)


class UnreadableInspection(ValueError):
    """The text is not what an inspector gives for an engine that was built with detailed profiling."""


def read_inspection(text: str, path: Path) -> FusionReport:
    """What an engine makes of the additions in the model that it was built from.

    Args:
        text: `IEngineInspector.get_engine_information` in JSON.
        path: the ONNX file.

    Raises:
        UnreadableInspection: no such text, or names only.
    """
    kernels = {node: kind for name, kind, metadata in _layers(text) for node in _nodes(name, metadata)}
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
