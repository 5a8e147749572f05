"""Imports weights of other projects as checkpoints, with one module per layout and a line in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.errors import ForeignWeights
from export.importing import labels, source, timm, torchvision, transformers
from export.importing.detect import check_parts, detect
from export.importing.fit import ArchitectureMismatch, channels_of, classes_of, fit
from export.importing.layout import MODES, TrainedPreprocess, WeightsLayout, make_preprocess
from export.importing.source import WeightsFile
from models.architectures import VARIANTS, UnknownArchitecture
from models.artifact.manifest import Architecture
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint
from models.validation import first_line

# Tried in this order: timm has the names of torchvision, and a file beside the weights distinguishes them.
LAYOUTS: Mapping[str, WeightsLayout] = {"transformers": transformers, "timm": timm, "torchvision": torchvision}


@dataclass(frozen=True)
class Imported:
    """A checkpoint, and the sources of its parts."""

    checkpoint: Checkpoint
    layout: str
    place: str
    """Place of the weights in the file, and whether they are an average; empty for a plain state dict."""
    ignored: tuple[str, ...]
    """Names of tensors beside the weights, which are not used."""
    preprocess_from: str
    labels_from: str


@dataclass(frozen=True)
class ImportOverrides:
    """Values that replace detected ones."""

    layout: str | None = None
    labels: Path | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields of `Preprocess`."""


def import_weights(path: Path, arch: str | None = None, overrides: ImportOverrides | None = None) -> Imported:
    """Read a file of weights in a known layout.

    Args:
        path: safetensors file, or a state dict of `torch.save`; code in a pickle is not executed.
        arch: name in the table of architectures; None to detect it.
        overrides: values that replace detected ones.

    Raises:
        ForeignWeights: the file cannot be read, is of another network, or needs further options.
    """
    try:
        return _import(path, arch, overrides or ImportOverrides())
    except (ForeignWeights, OSError):
        raise
    except Exception as error:  # tensors and configurations of any form
        raise ForeignWeights(f"{path}: cannot be imported: {first_line(error)}") from error


def _import(path: Path, wanted: str | None, overrides: ImportOverrides) -> Imported:
    read = source.read(path)
    name, layout = _layout(read, overrides.layout)
    check_parts(read, layout)
    arch = detect(read, layout) if wanted is None else wanted
    try:
        fitted = fit(read.tensors, layout, arch)
    except UnknownArchitecture as error:
        raise ForeignWeights(str(error)) from error
    if isinstance(fitted, ArchitectureMismatch):
        raise ForeignWeights(
            f"{path}: these are not the weights of {arch} in the layout of {name}: {_other(read, layout) or fitted}"
        )
    layout.check(read, arch)
    classes, channels = classes_of(read.tensors, layout), channels_of(read.tensors, layout)
    preprocess, preprocess_from = _preprocess(read, layout, arch, channels, overrides.preprocess)
    beside = None if overrides.labels else layout.labels(read)
    names, labels_from = labels.resolve_labels(path, classes, overrides.labels, beside)
    checkpoint = Checkpoint(
        Architecture(name=arch, num_classes=classes, in_channels=channels, options=fitted.options),
        names,
        preprocess,
        fitted.weights,
        {
            "imported": {
                "layout": name, "file": path.name, "place": read.place, "sha256": read.sha256,
                "preprocess": preprocess_from, "counters": fitted.counters,
            }
        },
    )  # fmt: skip
    place = " ".join(filter(None, (read.place, "(a moving average)"))) if read.averaged else read.place
    return Imported(checkpoint, name, place, read.ignored, preprocess_from, labels_from)


def _other(read: WeightsFile, layout: WeightsLayout) -> str | None:
    """The architecture that the weights are of, if there is one."""
    try:
        other = detect(read, layout)
    except ForeignWeights:
        return None
    return f"they are those of a {other}: --arch {other}"


def _layout(read: WeightsFile, wanted: str | None) -> tuple[str, WeightsLayout]:
    if wanted is not None:
        if wanted not in LAYOUTS:
            raise ForeignWeights(f"no layout is named {wanted!r}; there are: {', '.join(LAYOUTS)}")
        return wanted, LAYOUTS[wanted]
    for name, layout in LAYOUTS.items():
        if layout.recognises(read):
            return name, layout
    first = ", ".join(list(read.tensors)[:3]) or "none at all"
    raise ForeignWeights(f"{read.path}: its names ({first}, …) are of no known layout; known are: {', '.join(LAYOUTS)}")


def _trained(read: WeightsFile, layout: WeightsLayout) -> TrainedPreprocess:
    try:
        return layout.trained(read)
    except ForeignWeights:
        raise
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ForeignWeights(
            f"{read.path}: the configuration beside it is not understood ({error}): correct it, or move it away"
        ) from error


def _preprocess(
    read: WeightsFile, layout: WeightsLayout, arch: str, channels: int, overrides: dict[str, Any]
) -> tuple[Preprocess, str]:
    """The preprocessing, and its source."""
    path = read.path
    if channels not in MODES:
        raise ForeignWeights(f"{path}: takes images of {channels} channels, not 1 or 3")
    trained = _trained(read, layout)
    if trained.assumed and not (VARIANTS[arch].reduces_early and channels == 3):
        if not {"mean", "std"} <= overrides.keys():
            raise ForeignWeights(f"{path}: is no network for ImageNet's colour images: give --mean and --std")
        size = VARIANTS[arch].input_size
        trained = TrainedPreprocess({"size": (size, size)}, "the architecture's size")
    for fields, reason in trained.unsupported.items():
        if not overrides.keys() >= set(fields):
            raise ForeignWeights(f"{reason}: give {' and '.join(f'--{name}' for name in fields)}")
    values = {**trained.preprocess, **overrides}
    if "size" in overrides and "resize" not in overrides and (resize := trained.preprocess.get("resize")):
        values["resize"] = round(resize * overrides["size"][0] / trained.preprocess["size"][0])
    for name in ("mean", "std"):
        each = values[name]
        values[name] = (each,) * channels if isinstance(each, int | float) else tuple(each)
        if name not in overrides and len(values[name]) != channels:
            raise ForeignWeights(
                f"{path}: takes images of {channels} channels, but the configuration beside it has {name} "
                f"{values[name]}: give --{name}"
            )
    given = f", with {', '.join(overrides)} as given" if overrides else ""
    return make_preprocess({**values, "mode": MODES[channels]}), trained.known_from + given
