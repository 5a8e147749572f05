"""The layers of a network for reports: what each reads, writes and multiplies."""

from __future__ import annotations

from export.kernels.network import Classifier, Convolution, FeatureMap, Mean, Window
from export.kernels.packing.context import Context
from models.runtime.cuda_engine.plan import Layer


def layer_table(context: Context) -> tuple[Layer, ...]:
    """A row for the pixels, then one per layer, in the order of the network."""
    network, pixels = context.network, context.pixels
    rows = [
        Layer(
            name="pixels",
            kind="preparation of pixels",
            nodes=network.pixels.nodes,
            bytes_per_image=network.image.size + pixels.bytes(1),
            weight_bytes=0,
            multiply_adds=0,
        )
    ]
    for step in network.steps:
        if isinstance(step, Convolution):
            rows.append(_convolution(context, step))
        elif isinstance(step, Window):
            moved = _bytes(context, step.source) + sum(_bytes(context, form.name) for form in step.forms)
            rows.append(_row(step.name, "max pooling" if step.is_max else "mean pooling", step.nodes, moved))
        elif isinstance(step, Mean):
            moved = _bytes(context, step.source) + context.layouts[step.source].shape.channels * 4
            rows.append(_row(step.name, "global pooling", step.nodes, moved))
        elif isinstance(step, FeatureMap):
            moved = _bytes(context, step.source) + context.layouts[step.source].shape.size * 4
            rows.append(_row(step.output, "feature map as an output", (), moved))
        else:
            rows.append(_classifier(step))
    return tuple(rows)


def _convolution(context: Context, conv: Convolution) -> Layer:
    shape = conv.forms[0].shape
    of_pixels = conv.source == context.network.pixels.form.name
    read = context.pixels.bytes(1) if of_pixels else _bytes(context, conv.source)
    if conv.kernel < conv.stride:  # only these pixels are read
        read //= conv.stride**2
    names = [form.name for form in conv.forms] + ([] if conv.residual is None else [conv.residual])
    parts = [f"convolution {conv.kernel}x{conv.kernel}"]
    parts += [f"stride {conv.stride}"] if conv.stride > 1 else []
    parts += [f"{conv.groups} groups"] if conv.groups > 1 else []
    parts += ["int8" if conv.is_int8 else context.half]
    return Layer(
        name=conv.name,
        kind=", ".join(parts),
        nodes=conv.nodes,
        additions=conv.additions,
        bytes_per_image=read + sum(_bytes(context, name) for name in names),
        weight_bytes=conv.weight.size * (1 if conv.is_int8 else 2),
        multiply_adds=shape.height * shape.width * conv.weight.size,
    )


def _classifier(step: Classifier) -> Layer:
    classes, features = step.weight.shape
    return Layer(
        name=step.name,
        kind="head",
        nodes=step.nodes,
        bytes_per_image=4 * (features + 2 * classes),
        weight_bytes=step.weight.size * 4,
        multiply_adds=step.weight.size,
    )


def _row(name: str, kind: str, nodes: tuple[str, ...], moved: int) -> Layer:
    return Layer(name=name, kind=kind, nodes=nodes, bytes_per_image=moved, weight_bytes=0, multiply_adds=0)


def _bytes(context: Context, name: str) -> int:
    """Bytes of a form per image, with the padding of its channels."""
    layout = context.layouts[name]
    return layout.shape.height * layout.shape.width * layout.pixel_bytes
