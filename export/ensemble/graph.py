"""Joins the graphs of several networks to one that averages their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, compose, helper, numpy_helper

from export.errors import BuildError
from models.artifact.parity import Float32Array

OUTPUTS = ("logits", "probabilities")
"""Outputs of an ensemble. It has no feature map that class activation maps could be made from."""

SMALLEST = 1e-30
"""Added to probabilities before the logarithm: a probability of zero has no logarithm."""

_MAX_BYTES = 2**31 - 1


def logits_of(probabilities: Float32Array) -> Float32Array:
    """The logits of an ensemble, float32 [n, classes], from its probabilities: softmax(logits) are the probabilities.

    Computed as in the graph, in double precision.
    """
    return np.log(probabilities.astype(np.float64) + SMALLEST).astype(np.float32)


def average(members: Sequence[ModelProto]) -> ModelProto:
    """A graph that averages the probabilities of graphs of `formats.onnx`, which take the same images.

    Each member keeps its nodes, so a runtime fuses its residual additions as in the member alone. The average is the
    operator `Mean`, not an addition, which would look like another residual addition to every reader of the graph.

    Raises:
        BuildError: together the members are larger than a file in ONNX can be.
    """
    size = sum(member.ByteSize() for member in members)
    if size > _MAX_BYTES:
        raise BuildError(f"the members have {size / 1e9:.1f} GB together, and a file in ONNX at most 2: give fewer")
    model = ModelProto()
    model.CopyFrom(members[0])
    graph = model.graph
    for part in (graph.node, graph.initializer, graph.value_info, graph.output):
        del part[:]
    names = []
    for index, member in enumerate(members):
        prefix = f"member_{index}/"
        renamed = compose.add_prefix(member, prefix, rename_inputs=False)
        for part in ("node", "initializer", "value_info"):
            getattr(graph, part).extend(getattr(renamed.graph, part))
        names.append(f"{prefix}probabilities")
    graph.initializer.append(numpy_helper.from_array(np.array(SMALLEST, np.float32), "smallest"))
    graph.node.append(helper.make_node("Mean", names, ["probabilities"], "average"))
    graph.node.append(helper.make_node("Add", ["probabilities", "smallest"], ["positive"], "positive"))
    graph.node.append(helper.make_node("Log", ["positive"], ["logits"], "logarithm"))
    shapes = {output.name: output for output in members[0].graph.output}
    for name in OUTPUTS:
        graph.output.append(shapes[name])
    onnx.checker.check_model(model, full_check=True)
    return model
