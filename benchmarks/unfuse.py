"""Keeps the residual additions of a model out of the convolutions, to measure the gain of fusion."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from export.fusion import residual_adds


def unfuse(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the output of each convolution before an addition is read a second time, for its shape.

    A runtime then cannot compute the addition inside the convolution, because the convolution's own output is needed.
    The weights, the arithmetic and all other optimisations are the same; reading a shape costs nothing.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    producers = {name: node for node in copy.graph.node for name in node.output}
    for index, add in enumerate(residual_adds(copy.graph)):
        for name in add.input:
            if name in producers and producers[name].op_type == "Conv":
                probe = f"probe_{index}_{name}"
                copy.graph.node.append(helper.make_node("Shape", [name], [probe], probe))
                copy.graph.output.append(helper.make_tensor_value_info(probe, TensorProto.INT64, [4]))
    return copy
