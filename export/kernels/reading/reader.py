"""Reads a graph node by node.

Convolutions take up the addition and the element-wise steps behind them. A layer's forms are known when all of its
readers are, so layers are drafts until the last node has been read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto

from export.errors import UnsupportedNetwork
from export.kernels.network import Convolution, FeatureMap, Form, Network, Pixels, Shape, Step, Window
from export.kernels.reading.drafts import LayerDraft, output_size
from export.kernels.reading.graph import Graph, Weight, attributes, refused, scalar_scale, window
from export.kernels.reading.head import HeadReader
from export.kernels.reading.pixels import PixelTable
from export.kernels.reading.values import Relu, Round, Steps, Value, forms, normalisation

_PIXELS = -1


def read(path: Path) -> Network:
    """The layers of an ONNX file.

    Raises:
        UnsupportedNetwork: the file cannot be read, or has a node that no kernel computes.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # the exceptions of protobuf have no common base with OSError
        raise UnsupportedNetwork(f"{path.name}: cannot be read as ONNX: {error}") from error
    return read_model(model)


def read_model(model: onnx.ModelProto) -> Network:
    """The layers of a graph.

    Raises:
        UnsupportedNetwork: a node is none that the kernels compute.
    """
    return _Reader(Graph(model)).network()


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._table: dict[str, PixelTable] = {graph.input: PixelTable.of_bytes(graph.image.channels)}
        self._pixels: PixelTable | None = None
        self._pixel_nodes: list[str] = []
        self._pixel_wanted: list[Steps] = []
        self._weights: dict[str, Weight] = {
            name: Weight(value, None) for name, value in graph.constants.items() if value.ndim > 0
        }
        self._values: dict[str, Value] = {}
        self._drafts: list[LayerDraft] = []
        self._head = HeadReader(graph)
        self._readers: dict[str, Callable[[int, NodeProto], None]] = {
            "Relu": self._relu,
            "Identity": self._identity,
            "Cast": self._identity,
            "BatchNormalization": self._batchnormalization,
            "QuantizeLinear": self._quantizelinear,
            "DequantizeLinear": self._dequantizelinear,
            "Conv": self._conv,
            "Add": self._add,
            "MaxPool": self._maxpool,
            "AveragePool": self._averagepool,
            "ReduceMean": self._reducemean,
            "Gemm": self._gemm,
            "Div": self._div,
            "Softmax": self._softmax,
        }
        """Reads a node, by its operator."""

    def network(self) -> Network:
        for place, node in enumerate(self._graph.nodes):
            self._read(place, node)
        self._head.resolve_aliases(self._graph.outputs)
        feature_maps = [name for name in self._graph.outputs if name in self._values]
        for name in feature_maps:
            self._want(self._values[name])
        found: dict[tuple[int, Steps], Form] = {}
        for number, draft in enumerate(self._drafts):
            if not draft.wanted:
                raise UnsupportedNetwork(f"nothing reads the values of {draft.name}")
            made = forms(draft.name, draft.shape, draft.wanted)
            found |= {(number, steps): form for steps, form in made.items()}

        def name_of(value: Value) -> str:
            return pixels.form.name if value.layer == _PIXELS else found[value.layer, value.steps].name

        pixels = self._pixel_layer()
        steps: list[Step] = []
        for draft in sorted(self._drafts, key=lambda each: each.order):
            number = self._drafts.index(draft)
            own = tuple(form for (layer, _), form in found.items() if layer == number)
            steps.append(draft.make(draft, own, name_of))
        steps += [FeatureMap(name, name_of(self._values[name]), name) for name in feature_maps]
        steps += self._head.steps(name_of)
        return Network(self._graph.image, pixels, tuple(steps), self._outputs())

    def _read(self, place: int, node: NodeProto) -> None:
        source = node.input[0] if node.input else ""
        if source in self._table and node.op_type not in ("Conv", "QuantizeLinear", "DequantizeLinear"):
            self._prepare(node, source)
            return
        reader = self._readers.get(node.op_type)
        if reader is None:
            raise refused(node, f"the operator {node.op_type}")
        reader(place, node)

    def _prepare(self, node: NodeProto, source: str) -> None:
        others = [name for name in node.input if name in self._table]
        self._table[node.output[0]] = self._table[others[0]].after(self._graph, node)
        self._pixel_nodes.append(node.name)

    # ---- element-wise steps

    def _value(self, node: NodeProto, number: int = 0) -> Value:
        """The value of a node's input."""
        name = node.input[number]
        if name in self._table:
            if self._pixels not in (None, self._table[name]):
                raise refused(node, "the images are prepared in two ways")
            self._pixels = self._table[name]
            return Value(_PIXELS)
        if name not in self._values:
            raise refused(node, "its input is no activation")
        return self._values[name]

    def _relu(self, place: int, node: NodeProto) -> None:
        self._values[node.output[0]] = self._value(node).then(Relu())

    def _identity(self, place: int, node: NodeProto) -> None:
        name, output = node.input[0], node.output[0]
        if name in self._values:
            self._values[output] = self._values[name]
        elif name in self._weights:
            self._weights[output] = self._weights[name]
        else:
            self._head.alias(output, name)

    def _batchnormalization(self, place: int, node: NodeProto) -> None:
        scale, shift, mean, variance = (self._graph.constant(node, number) for number in range(1, 5))
        epsilon = float(attributes(node).get("epsilon", 1e-5))
        step = normalisation(scale, shift, mean, variance, epsilon, node.name)
        self._values[node.output[0]] = self._value(node).then(step)

    def _quantizelinear(self, place: int, node: NodeProto) -> None:
        self._values[node.output[0]] = self._value(node).then(Round(scalar_scale(self._graph, node)))

    def _dequantizelinear(self, place: int, node: NodeProto) -> None:
        if self._graph.is_constant(node.input[0]):
            weight, scale = self._graph.constants[node.input[0]], self._graph.constant(node, 1)
            if weight.dtype != np.int8 or attributes(node).get("axis", 1) not in (0, -weight.ndim):
                raise refused(node, "weights are signed integers with a scale per output channel")
            scales = np.broadcast_to(scale.reshape(-1), len(weight)).astype(np.float32)
            self._weights[node.output[0]] = Weight(weight, scales)
            return
        value = self._value(node)
        if not value.steps or value.steps[-1] != Round(scalar_scale(self._graph, node)):
            raise refused(node, "it has another scale than the rounding before it")
        self._values[node.output[0]] = value

    # ---- layers

    def _want(self, value: Value) -> Value:
        """Note that a layer must store a value."""
        wanted = self._pixel_wanted if value.layer == _PIXELS else self._drafts[value.layer].wanted
        if value.steps not in wanted:
            wanted.append(value.steps)
        return value

    def _shape(self, value: Value) -> Shape:
        return self._graph.image if value.layer == _PIXELS else self._drafts[value.layer].shape

    def _add_layer(self, draft: LayerDraft, output: str) -> None:
        self._values[output] = Value(len(self._drafts))
        self._drafts.append(draft)

    def _conv(self, place: int, node: NodeProto) -> None:
        source = self._want(self._value(node))
        weight = self._weights.get(node.input[1])
        if weight is None or weight.values.ndim != 4:
            raise refused(node, "its weight is not constant, or not that of a two-dimensional convolution")
        out, _, height, width = weight.values.shape
        kernel, stride, padding = window(node, (height, width))
        before, groups = self._shape(source), int(attributes(node).get("group", 1))
        rounded = bool(source.steps) and isinstance(source.steps[-1], Round)
        if rounded != (weight.scale is not None):
            raise refused(node, "only one of its input and its weight is rounded")
        has_bias = len(node.input) > 2 and node.input[2]
        bias = self._graph.constant(node, 2) if has_bias else np.zeros(out, np.float32)
        if bias.dtype != np.float32:
            raise refused(node, "its bias is not float32")
        rows, columns = (output_size(size, kernel, stride, padding) for size in (before.height, before.width))
        shape = Shape(rows, columns, out)

        def make(draft: LayerDraft, own: tuple[Form, ...], name_of: Callable[[Value], str]) -> Convolution:
            residual = None if draft.residual is None else name_of(draft.residual)
            return Convolution(
                draft.name,
                name_of(source),
                weight.values,
                weight.scale,
                bias,
                stride,
                padding,
                groups,
                residual,
                own,
                tuple(draft.nodes),
                tuple(draft.additions),
            )

        self._add_layer(LayerDraft(node.name, shape, [node.name], make, place, is_convolution=True), node.output[0])

    def _add(self, place: int, node: NodeProto) -> None:
        pair = [self._value(node, 0), self._value(node, 1)]
        for number, value in enumerate(pair):
            draft = self._drafts[value.layer] if value.layer != _PIXELS else None
            free = draft is not None and draft.is_convolution and draft.residual is None and not draft.wanted
            if free and draft is not None and not value.steps and self._graph.uses[node.input[number]] == 1:
                draft.residual = self._want(pair[1 - number])
                if self._shape(draft.residual) != draft.shape:
                    raise refused(node, "its summands have different shapes")
                draft.order = place
                draft.nodes.append(node.name)
                draft.additions.append(node.name)
                self._values[node.output[0]] = value
                return
        raise refused(node, "no convolution computes one of its summands for it alone")

    def _maxpool(self, place: int, node: NodeProto) -> None:
        self._window(place, node, is_max=True)

    def _averagepool(self, place: int, node: NodeProto) -> None:
        self._window(place, node, is_max=False)

    def _window(self, place: int, node: NodeProto, is_max: bool) -> None:
        source = self._want(self._value(node))
        found = attributes(node)
        kernel, stride, padding = window(node, tuple(found["kernel_shape"]))
        before, ceil = self._shape(source), bool(found.get("ceil_mode", 0))
        rows, columns = (output_size(size, kernel, stride, padding, ceil) for size in (before.height, before.width))
        counts = bool(found.get("count_include_pad", 0))
        if source.layer == _PIXELS or (counts and ceil and not is_max):
            raise refused(node, "a pool of this kind, or of the images themselves")

        def make(draft: LayerDraft, own: tuple[Form, ...], name_of: Callable[[Value], str]) -> Window:
            return Window(draft.name, name_of(source), is_max, kernel, stride, padding, counts, own, tuple(draft.nodes))

        self._add_layer(
            LayerDraft(node.name, Shape(rows, columns, before.channels), [node.name], make, place), node.output[0]
        )

    # ---- the head

    def _reducemean(self, place: int, node: NodeProto) -> None:
        self._head.reduce_mean(node, self._want(self._value(node)))

    def _gemm(self, place: int, node: NodeProto) -> None:
        self._head.gemm(node)

    def _div(self, place: int, node: NodeProto) -> None:
        self._head.div(node)

    def _softmax(self, place: int, node: NodeProto) -> None:
        self._head.softmax(node)

    # ---- the whole

    def _pixel_layer(self) -> Pixels:
        if self._pixels is None or len(self._pixel_wanted) != 1:
            raise UnsupportedNetwork("the first convolutions do not read the images in one form")
        form = next(iter(forms("images", self._graph.image, self._pixel_wanted).values()))
        if form.relu or form.affine is not None:
            raise UnsupportedNetwork("the images go through more than arithmetic before the first convolution")
        return Pixels(self._pixels.values, form, tuple(self._pixel_nodes))

    def _outputs(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        rows = self._head.rows(self._shape)
        for name, value in self._values.items():
            shape = self._shape(value)
            rows[name] = (shape.channels, shape.height, shape.width)
        missing = [name for name in self._graph.outputs if name not in rows]
        if missing:
            raise UnsupportedNetwork(f"the output {missing[0]} is none that the kernels compute")
        return tuple((name, rows[name]) for name in self._graph.outputs)
