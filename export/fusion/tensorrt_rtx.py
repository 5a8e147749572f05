"""TensorRT for RTX builds engines without a GPU; its log lists their layers, each with the ONNX nodes it computes.

Name: node_conv2d_2_myl0_4, LayerType: correlation, …, Metadata: [ONNX Layer: node_conv2d_2][ONNX Layer: node_add]
"""

from __future__ import annotations

import re
from pathlib import Path

import tensorrt_rtx as trt

from export.fusion import report_of
from models.manifest import INPUT, FusionReport

_LAYER = re.compile(r"^Name: .*?, LayerType: (?P<kind>[^,]*),.*?Metadata: (?P<nodes>.*)$", re.MULTILINE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_CONVOLUTION = "correlation"
_BATCHES = (1, 8, 32)


class UnreadableLog(RuntimeError):
    """The runtime does not take the graph, or does not tell what it made of it."""


class _Log(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.layers = ""
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if message.startswith("Layers:"):
            self.layers = message
        elif severity <= trt.ILogger.ERROR:
            self.errors.append(message)


def report(path: Path) -> FusionReport:
    """Build an engine and read the log.

    Raises:
        UnreadableLog: the graph was refused, or the log does not list layers.
    """
    return read_layers(_build(path), path)


def read_layers(log: str, path: Path) -> FusionReport:
    """What the layers of an engine, as the log lists them, make of the additions in the model of `path`."""
    kernels = {node: found["kind"] for found in _LAYER.finditer(log) for node in _NODE.findall(found["nodes"])}
    if not kernels:
        raise UnreadableLog(f"{path.name}: the log of the build lists no layers")
    return report_of(path, kernels, lambda kind: kind == _CONVOLUTION)


def _build(path: Path) -> str:
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        raise UnreadableLog(f"{path.name}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    image = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(INPUT, *((batch, *image) for batch in _BATCHES))
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise UnreadableLog(f"{path.name}: {log.errors[-1] if log.errors else 'no engine was built'}")
    return log.layers
