"""TensorRT for RTX builds engines without a GPU; its log lists their layers, each with the ONNX nodes it computes.

Name: node_conv2d_2_myl0_4, LayerType: correlation, …, Metadata: [ONNX Layer: node_conv2d_2][ONNX Layer: node_add]
"""

from __future__ import annotations

import re
from pathlib import Path

import tensorrt_rtx

from export.formats import tensorrt
from export.fusion import report_of
from models.engine_cache import BatchRange
from models.manifest import FusionReport

_LAYER = re.compile(r"^Name: .*?, LayerType: (?P<kind>[^,]*),.*?Metadata: (?P<nodes>.*)$", re.MULTILINE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_CONVOLUTION = "correlation"
_OPTIONS = tensorrt.Options((BatchRange(min=1, opt=8, max=32),))  # what is fused is the same in every profile


class UnreadableLog(RuntimeError):
    """The runtime does not tell what it made of the graph."""


def report(path: Path) -> FusionReport:
    """Build an engine and read the log.

    Raises:
        EngineError: the graph was refused.
        UnreadableLog: the log does not list layers.
    """
    return read_layers(tensorrt.build(tensorrt_rtx, path, _OPTIONS).layers, path)


def read_layers(log: str, path: Path) -> FusionReport:
    """What the layers of an engine, as the log lists them, make of the additions in the model of `path`.

    Raises:
        UnreadableLog: it lists none.
    """
    kernels = {node: found["kind"] for found in _LAYER.finditer(log) for node in _NODE.findall(found["nodes"])}
    if not kernels:
        raise UnreadableLog(f"{path.name}: the log of the build lists no layers")
    return report_of(path, kernels, lambda kind: kind == _CONVOLUTION)
