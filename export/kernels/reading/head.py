"""The nodes behind the last layer: pooled features, logits and probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from export.errors import UnsupportedNetwork
from export.kernels.network import Classifier, Float32Array, Mean, Shape, Step
from export.kernels.reading.graph import Graph, attributes, refused
from export.kernels.reading.values import Value


@dataclass(frozen=True)
class _Logits:
    """The classifier until its softmax is read."""

    name: str
    features: str
    weight: Float32Array
    bias: Float32Array
    temperature: float
    nodes: tuple[str, ...]


class HeadReader:
    """Means over images, and one classifier."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._means: dict[str, Mean] = {}
        self._sources: dict[str, Value] = {}
        self._logits: dict[str, _Logits] = {}
        self._aliases: dict[str, str] = {}
        self._classifier: Classifier | None = None

    def alias(self, name: str, of: str) -> None:
        """A tensor is the same as another one."""
        self._aliases[name] = self._aliases.get(of, of)

    def resolve_aliases(self, outputs: Iterable[str]) -> None:
        """The same mean may be an output twice."""
        for name in outputs:
            source = self._aliases.get(name, "")
            if source in self._means:
                self._means[name] = replace(self._means[source], output=name)
                self._sources[name] = self._sources[source]

    def reduce_mean(self, node: NodeProto, source: Value) -> None:
        """Pooled features."""
        found = attributes(node)
        axes = self._graph.constant(node, 1).tolist() if len(node.input) > 1 else list(found.get("axes", ()))
        if sorted(axes) not in ([2, 3], [-2, -1]) or found.get("keepdims", 1):
            raise refused(node, "a mean over other dimensions than height and width")
        self._sources[node.output[0]] = source
        self._means[node.output[0]] = Mean(node.name, "", node.output[0], (node.name,))

    def gemm(self, node: NodeProto) -> None:
        """Logits."""
        found, source = attributes(node), self._source(node)
        if source not in self._means or found.get("transA", 0) or found.get("alpha", 1) != 1:
            raise refused(node, "its input is not the pooled features")
        weight = self._graph.constant(node, 1)
        weight = weight if found.get("transB", 0) else weight.T
        bias = self._graph.constant(node, 2) if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        if found.get("beta", 1) != 1 or weight.dtype != np.float32 or bias.dtype != np.float32:
            raise refused(node, "it is not computed in float32")
        self._logits[node.output[0]] = _Logits(node.output[0], source, weight, bias, 1.0, (node.name,))

    def div(self, node: NodeProto) -> None:
        """The temperature."""
        source, divisor = self._source(node), self._graph.constant(node, 1)
        if source not in self._logits or divisor.size != 1:
            raise refused(node, "a division elsewhere than between the logits and the softmax")
        logits = self._logits[source]
        nodes = (*logits.nodes, node.name)
        self._logits[node.output[0]] = replace(logits, temperature=float(divisor.reshape(())), nodes=nodes)

    def softmax(self, node: NodeProto) -> None:
        """Probabilities."""
        source = self._source(node)
        if source not in self._logits or attributes(node).get("axis", -1) not in (1, -1) or self._classifier:
            raise refused(node, "a softmax of other values than the logits")
        found = self._logits[source]
        self._classifier = Classifier(
            node.name,
            found.features,
            found.weight,
            found.bias,
            found.temperature,
            found.name,
            node.output[0],
            (*found.nodes, node.name),
        )

    def steps(self, name_of: Callable[[Value], str]) -> list[Step]:
        """The layers of the head.

        Args:
            name_of: the name of the form of a value.
        """
        means = [replace(mean, source=name_of(self._sources[name])) for name, mean in self._means.items()]
        return [*means, self._found()]

    def rows(self, shape_of: Callable[[Value], Shape]) -> dict[str, tuple[int, ...]]:
        """Shape of a row of each tensor of the head."""
        classifier = self._found()
        classes = (len(classifier.weight),)
        means = {name: (shape_of(source).channels,) for name, source in self._sources.items()}
        return {classifier.logits: classes, classifier.probabilities: classes, **means}

    def _found(self) -> Classifier:
        if self._classifier is None:
            raise UnsupportedNetwork("the graph has no classifier with a softmax")
        return self._classifier

    def _source(self, node: NodeProto) -> str:
        name = str(node.input[0])
        return self._aliases.get(name, name)
