"""The plan of a network: launches per batch size, with the memory of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from export.errors import UnsupportedNetwork
from export.kernels.network import Convolution, FeatureMap, Mean, Network, Window
from export.kernels.packing import others
from export.kernels.packing.arena import Need, Place, place_tensors
from export.kernels.packing.context import PIXELS, Context
from export.kernels.packing.convolutions import convolution
from export.kernels.packing.launches import ELEMENTS, IMAGES, WEIGHTS, Call, KernelKey, MapRef, Number, Ref
from export.kernels.packing.layout import layouts, pixel_layout
from export.kernels.packing.report import layer_table
from export.kernels.packing.weights import WeightStore
from export.kernels.tiles import NONE_MEASURED, KernelTarget, Measured
from models.runtime.cuda_engine.plan import (
    Argument,
    Buffer,
    BufferKind,
    Kernel,
    Launch,
    LaunchPlan,
    MapArgument,
    Output,
    Parameter,
    ParameterKind,
    Pointer,
    Precision,
    Program,
    Region,
    Scalar,
    TensorMap,
)

_MAX_ELEMENTS = 2**31
"""Kernels compute places in 32 bits."""
_HIDDEN = ("global scratch", "profile scratch")
"""Pointers that Triton appends to the parameters of each kernel."""


@dataclass
class PlanDraft:
    """A plan that is not compiled, with its constants."""

    plan: LaunchPlan
    weights: bytes
    keys: list[KernelKey]
    """Kernels in the order of the plan."""


@dataclass
class _Kernels:
    """The kernels of all programs, each once."""

    keys: dict[KernelKey, int] = field(default_factory=dict)

    def number(self, key: KernelKey) -> int:
        return self.keys.setdefault(key, len(self.keys))


def draft(
    network: Network,
    precision: Precision,
    target: KernelTarget,
    batches: Sequence[int],
    onnx_sha256: str,
    compiler: str,
    measured: Measured = NONE_MEASURED,
) -> PlanDraft:
    """Plan the launches of a network.

    Args:
        network: the layers.
        precision: int8 for the layers of an int8 file; otherwise the precision of the convolutions.
        target: the GPUs.
        batches: batch sizes.
        onnx_sha256: hash of the network's file.
        compiler: name and version of the compiler.
        measured: configurations that were measured.

    Raises:
        UnsupportedNetwork: no kernel computes a layer.
    """
    weights = WeightStore()
    contexts = [make_context(network, precision, target, each, weights, measured) for each in sorted(set(batches))]
    return assemble([(context, _calls(context)) for context in contexts], precision, onnx_sha256, compiler)


def make_context(
    network: Network,
    precision: Precision,
    target: KernelTarget,
    batch: int,
    weights: WeightStore,
    measured: Measured = NONE_MEASURED,
) -> Context:
    """A network with the layout of its tensors, for one batch size."""
    half = "bf16" if precision == "bfloat16" else "fp16"
    pixels = pixel_layout(network, "i8" if network.pixels.form.scale is not None else half)
    return Context(network, layouts(network, half), pixels, weights, half, target, batch, measured)


def assemble(
    drafted: Sequence[tuple[Context, list[Call]]], precision: Precision, onnx_sha256: str, compiler: str
) -> PlanDraft:
    """A plan of launches, with memory for their tensors; all contexts have one network and one store of weights."""
    context = drafted[0][0]
    network, kernels, content = context.network, _Kernels(), context.weights.content()
    programs = tuple(_program(context, calls, kernels, len(content)) for context, calls in drafted)
    plan = LaunchPlan(
        architecture=context.target.architecture,
        precision=precision,
        compiler=compiler,
        onnx_sha256=onnx_sha256,
        image=(network.image.height, network.image.width, network.image.channels),
        outputs=tuple(Output(name=name, row=row) for name, row in network.outputs),
        weights=Region(offset=0, bytes=len(content)),
        cubins=(),
        kernels=tuple(_kernel(key) for key in kernels.keys),
        layers=layer_table(context),
        programs=programs,
    )
    return PlanDraft(plan, content, list(kernels.keys))


def _calls(context: Context) -> list[Call]:
    calls = [others.prepare(context, 0)]
    for layer, step in enumerate(context.network.steps, 1):
        if isinstance(step, Convolution):
            calls.append(convolution(context, step, layer))
        elif isinstance(step, Window):
            calls.append(others.window(context, step, layer))
        elif isinstance(step, FeatureMap):
            calls.append(others.feature_map(context, step, layer))
        elif isinstance(step, Mean):
            calls.append(others.mean(context, step, layer))
        else:
            calls.append(others.classifier(context, step, layer))
    return calls


def _kernel(key: KernelKey) -> Kernel:
    parameters = [parameter for name, type in key.types for parameter in _parameters(name, type)]
    hidden = [Parameter(name=name, kind="scratch", type="*i8") for name in _HIDDEN]
    return Kernel(
        name=f"{key.source} {key.block}",
        source=key.source,
        constants=dict(key.constants),
        warps=key.warps,
        stages=key.stages,
        parameters=(*parameters, *hidden),
        binary=None,
    )


def _parameters(name: str, type: str) -> list[Parameter]:
    """The parameters of an argument; a tensor map is followed by its shape and its strides."""
    if type.startswith("*"):
        return [Parameter(name=name, kind="pointer", type=type)]
    if type.startswith("tensordesc"):
        shape = [Parameter(name=f"{name}.shape.{place}", kind="int32", type="i32") for place in range(2)]
        strides = [Parameter(name=f"{name}.stride.{place}", kind="int64", type="i64") for place in range(2)]
        return [Parameter(name=name, kind="tensor_map", type=type), *shape, *strides]
    kind: ParameterKind = "float32" if type == "fp32" else "int32"
    return [Parameter(name=name, kind=kind, type=type)]


def _program(context: Context, calls: list[Call], kernels: _Kernels, weight_bytes: int) -> Program:
    buffers, numbers = _buffers(context, calls, weight_bytes)
    maps: dict[MapRef, int] = {}
    launches = []
    for call in calls:
        arguments: list[Argument] = []
        for given in call.arguments:
            if isinstance(given, Number):
                arguments.append(Scalar(value=given.value))
            elif isinstance(given, Ref):
                arguments.append(_pointer(given, numbers))
            else:
                arguments.append(MapArgument(tensor_map=maps.setdefault(given, len(maps))))
                sizes = (given.rows, given.columns, given.columns, 1)
                arguments += [Scalar(value=size) for size in sizes]
        arguments += [Scalar(value=0) for _ in _HIDDEN]
        launches.append(
            Launch(
                kernel=kernels.number(call.kernel),
                layer=call.layer,
                grid=call.grid,
                arguments=tuple(arguments),
                tile_origin=call.tile_origin,
            )
        )
    return Program(
        batch=context.batch,
        arena_bytes=max((buffer.offset + buffer.bytes for buffer in buffers if buffer.kind == "activation"), default=0),
        buffers=tuple(buffers),
        tensor_maps=tuple(_tensor_map(each, numbers) for each in maps),
        launches=tuple(launches),
    )


def _pointer(ref: Ref, numbers: dict[str, int]) -> Pointer:
    return Pointer(buffer=numbers[ref.tensor], offset=ref.offset, bytes=ref.bytes, access=ref.access)


def _tensor_map(ref: MapRef, numbers: dict[str, int]) -> TensorMap:
    element = ELEMENTS[ref.address.element]
    size = 1 if element == "uint8" else 2
    inner = ref.box[1] * size
    return TensorMap(
        address=_pointer(ref.address, numbers),
        element=element,
        shape=(ref.columns, ref.rows),
        strides=(ref.columns * size,),
        box=(ref.box[1], ref.box[0]),
        swizzle=next((each for each in (32, 64, 128) if each == inner), 128 if inner > 128 else 0),
    )


def _buffers(context: Context, calls: list[Call], weight_bytes: int) -> tuple[list[Buffer], dict[str, int]]:
    """The buffers of a program, and the number of the buffer of each tensor."""
    uses: dict[str, list[int]] = {}
    for number, call in enumerate(calls):
        for given in call.arguments:
            ref = given.address if isinstance(given, MapRef) else given
            if isinstance(ref, Ref):
                uses.setdefault(ref.tensor, []).append(number)
    rows = dict(context.network.outputs)
    buffers: list[Buffer] = []
    numbers: dict[str, int] = {}
    for name, used in uses.items():
        fixed = _fixed(context, name, rows, weight_bytes)
        if fixed is not None:
            kind, size = fixed
            numbers[name] = len(buffers)
            buffers.append(Buffer(name=name, kind=kind, bytes=size, offset=0, first=used[0], last=used[-1]))
    needs = [_need(context, name, used, len(calls)) for name, used in uses.items() if name not in numbers]
    for place in place_tensors(needs)[0]:
        numbers |= {need.name: len(buffers) for need in place.tensors}
        buffers.append(_activation(place, len(calls)))
    return buffers, numbers


def _fixed(
    context: Context, name: str, rows: dict[str, tuple[int, ...]], weight_bytes: int
) -> tuple[BufferKind, int] | None:
    """Kind and size of a buffer that is no activation."""
    if name == IMAGES:
        return "images", context.batch * context.network.image.size
    if name == WEIGHTS:
        return "weights", weight_bytes
    if name in rows:
        size = 4 * context.batch
        for length in rows[name]:
            size *= length
        return "output", size
    return None


def _need(context: Context, name: str, used: list[int], launches: int) -> Need:
    if name == PIXELS:
        need = Need(name, context.pixels.bytes(context.batch), None, used[0], used[-1])
    elif name == others.COUNTERS:
        return Need(name, others.counter_bytes(context.batch), (), 0, launches - 1)
    elif name in context.layouts:
        layout = context.layouts[name]
        size = layout.bytes(context.batch)
        pattern = (layout.plane, layout.pitch, layout.padding, layout.pixel_bytes) if layout.padding else None
        need = Need(name, size, pattern, used[0], used[-1])
    else:  # pooled features that are no output
        mean = next(step for step in context.network.steps if isinstance(step, Mean) and step.output == name)
        channels = context.layouts[mean.source].shape.channels
        need = Need(name, context.batch * channels * 4, None, used[0], used[-1])
    if need.bytes >= _MAX_ELEMENTS:
        raise UnsupportedNetwork(
            f"batches of {context.batch} need {need.bytes} bytes for one tensor: build smaller ones"
        )
    return need


def _activation(place: Place, launches: int) -> Buffer:
    name = place.tensors[0].name + (f" and {len(place.tensors) - 1} more" if len(place.tensors) > 1 else "")
    first, last = (0, launches - 1) if place.zeroed else (place.first, place.last)
    return Buffer(
        name=name,
        kind="activation",
        bytes=place.bytes,
        offset=place.offset,
        zeroed=place.zeroed,
        first=first,
        last=last,
    )
