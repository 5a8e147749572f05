"""Errors while a version or an engine is written.

BuildError
├── ForeignWeights          a file of another project cannot be imported
├── FetchError              weights cannot be fetched by their name
└── EngineError             no engine is built
    ├── BadProfile          from these batch sizes
    ├── UnreadableModel     from this file: it is no ONNX, or not a graph of this project
    ├── UnsupportedOperator from this graph: it has a node that TensorRT does not support
    ├── UnsupportedNetwork  from this graph: our kernels do not compute it
    └── UnsupportedDevice   for this GPU
"""

from __future__ import annotations


class BuildError(ValueError):
    """The version cannot be written; the message is one line with the reason."""


class ForeignWeights(BuildError):
    """A file of another project cannot be imported; the message is one line with the reason."""


class FetchError(BuildError):
    """Weights cannot be fetched by their name; the message is one line with the reason, and what to do."""


class EngineError(BuildError):
    """No engine is built; the message is one line with the reason."""


class BadProfile(EngineError):
    """The batch sizes are not smallest <= best <= largest, or the graph does not support them."""


class UnreadableModel(EngineError):
    """The file is no ONNX graph, or has another signature than the graphs of this project."""


class UnsupportedOperator(EngineError):
    """TensorRT does not support a node of the graph."""


class UnsupportedNetwork(EngineError):
    """Our kernels do not compute the graph; the message names the node and the reason."""


class UnsupportedDevice(EngineError):
    """No engine can be built for this GPU."""
