"""Frees graphs that were exported for one batch size, as `torch.onnx.export(model, (x,), file)` does by default."""

from __future__ import annotations

import onnx
from onnx import numpy_helper, shape_inference

from export.wrapping.head import constants


def free_batch(original: onnx.ModelProto, given: str, batch: int) -> onnx.ModelProto:
    """A copy whose Reshape nodes keep the batch size of their input, where their constant shape repeats it.

    Args:
        original: the model.
        given: name of its input.
        batch: batch size that the input has in the file.
    """
    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph, known = model.graph, constants(model.graph)
    sizes = _first_dimensions(model)
    computed = {given}
    for node in graph.node:
        if not computed.intersection(node.input):
            continue
        computed.update(node.output)
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in known:
            continue
        shape = numpy_helper.to_array(known[node.input[1]]).copy()
        zeros_are_sizes = any(item.name == "allowzero" and item.i for item in node.attribute) and 0 in shape
        if sizes.get(node.input[0]) != batch or shape.size < 2 or shape[0] != batch or zeros_are_sizes:
            continue
        shape[0] = 0  # the size of the input
        name = f"{node.output[0]}/shape"
        graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
        kept = [item for item in node.attribute if item.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return model


def _first_dimensions(model: onnx.ModelProto) -> dict[str, int]:
    """The first dimension of each tensor, if it is known."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: value.type.tensor_type.shape.dim[0].dim_value
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.shape.dim
    }
