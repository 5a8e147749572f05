"""What can go wrong while a version or an engine is written.

BuildError
└── EngineError             TensorRT builds no engine
    ├── BadProfile          from these batch sizes
    ├── UnreadableModel     from this file: it is no ONNX, or not a graph of this project
    ├── UnsupportedOperator from this graph: it has a node that TensorRT does not take
    └── UnsupportedDevice   for this GPU
"""

from __future__ import annotations


class BuildError(ValueError):
    """The version cannot be written; the message is one line that says why."""


class EngineError(BuildError):
    """TensorRT builds no engine; the message is one line that says why."""


class BadProfile(EngineError):
    """The batch sizes are not smallest <= best <= largest, or the graph does not take them."""


class UnreadableModel(EngineError):
    """The file is no ONNX graph, or has another signature than every graph has."""


class UnsupportedOperator(EngineError):
    """TensorRT does not take a node of the graph."""


class UnsupportedDevice(EngineError):
    """TensorRT does not build for this GPU."""
