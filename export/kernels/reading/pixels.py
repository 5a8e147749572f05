"""The arithmetic between the bytes of an image and the first layer, as a table: a byte has 256 values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from export.kernels.network import Array, Float32Array
from export.kernels.reading.graph import Graph, refused

_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@dataclass(frozen=True)
class PixelTable:
    """The value of each byte in each channel, as the graph computes it in float32."""

    values: Float32Array
    """[256, channels]."""
    channels_first: bool = False

    @classmethod
    def of_bytes(cls, channels: int) -> PixelTable:
        """The bytes themselves."""
        return cls(np.repeat(np.arange(256, dtype=np.float32)[:, None], channels, 1))

    def after(self, graph: Graph, node: NodeProto) -> PixelTable:
        """The table after one more node.

        Raises:
            UnsupportedNetwork: the node is no arithmetic on single pixels.
        """
        if node.op_type in ("Cast", "Identity"):
            return self
        if node.op_type == "Transpose":
            if self.channels_first or list(node.attribute[0].ints) != [0, 3, 1, 2]:
                raise refused(node, "it moves other dimensions of the images than the channels")
            return replace(self, channels_first=True)
        if node.op_type not in _ARITHMETIC:
            raise refused(node, f"{node.op_type} before the first convolution")
        first, second = (self._operand(graph, node, name) for name in node.input[:2])
        return replace(self, values=_ARITHMETIC[node.op_type](first, second).astype(np.float32))

    def _operand(self, graph: Graph, node: NodeProto, name: str) -> Array:
        if not graph.is_constant(name):
            return self.values
        constant = graph.constants[name].astype(np.float32)
        channels = self.values.shape[1]
        place = -3 if self.channels_first else -1
        fits = constant.size == 1 or (
            constant.size == channels and constant.ndim >= -place and constant.shape[place] == channels
        )
        if not fits:
            raise refused(node, "its constant differs by place in the image")
        return constant.reshape(1, -1)
