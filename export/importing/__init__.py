"""Weights that people already have, as checkpoints of this project: one file a layout, and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.errors import ForeignWeights
from export.importing import labels, source, timm, torchvision, transformers
from export.importing.fit import ArchitectureMismatch, channels_of, classes_of, fit, other_architecture
from export.importing.layout import Layout, Trained, prepared
from export.importing.source import Source
from models.architectures import VARIANTS, UnknownArchitecture
from models.artifact.manifest import Architecture
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint

# In the order in which they are tried: timm's names are torchvision's, and a file beside the weights tells them apart.
LAYOUTS: Mapping[str, Layout] = {"transformers": transformers, "timm": timm, "torchvision": torchvision}

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Imported:
    """A checkpoint, and how it came about."""

    checkpoint: Checkpoint
    layout: str
    preprocess_from: str
    labels_from: str


@dataclass(frozen=True)
class ImportOverrides:
    """What is said, instead of found."""

    layout: str | None = None
    labels: Path | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields of `Preprocess` that are not as the weights were trained with."""


def import_weights(path: Path, arch: str, wishes: ImportOverrides | None = None) -> Imported:
    """Read a file of weights in a layout that it is recognised by.

    Args:
        path: safetensors, or what `torch.save` wrote of a state dict; nothing that a pickle holds is run.
        arch: a row of the table of architectures.
        wishes: what is not to be found by itself.

    Raises:
        ForeignWeights: the file cannot be read, is of another network, or more must be said of it.
    """
    wishes = wishes or ImportOverrides()
    read = source.read(path)
    name, layout = _layout(read, wishes.layout)
    layout.check(read, arch)
    try:
        fitted = fit(read.tensors, layout, arch)
    except UnknownArchitecture as error:
        raise ForeignWeights(str(error)) from error
    if isinstance(fitted, ArchitectureMismatch):
        other = other_architecture(read.tensors, layout)
        reason = f"they are those of a {other}: --arch {other}" if other else str(fitted)
        raise ForeignWeights(f"{path}: these are not the weights of {arch} in {name}'s layout: {reason}")
    classes, channels = classes_of(read.tensors, layout), channels_of(read.tensors, layout)
    preprocess, preprocess_from = _preprocess(read, layout, arch, channels, wishes.preprocess)
    names, labels_from = labels.choose(path, classes, wishes.labels, layout.labels(read))
    checkpoint = Checkpoint(
        Architecture(name=arch, num_classes=classes, in_channels=channels, options=fitted.options),
        names,
        preprocess,
        fitted.weights,
        {"imported": {"layout": name, "file": path.name, "sha256": read.sha256, "preprocess": preprocess_from}},
    )
    return Imported(checkpoint, name, preprocess_from, labels_from)


def _layout(read: Source, wanted: str | None) -> tuple[str, Layout]:
    if wanted is not None:
        if wanted not in LAYOUTS:
            raise ForeignWeights(f"no layout is named {wanted!r}; there are: {', '.join(LAYOUTS)}")
        return wanted, LAYOUTS[wanted]
    for name, layout in LAYOUTS.items():
        if layout.recognises(read):
            return name, layout
    first = ", ".join(list(read.tensors)[:3]) or "none at all"
    raise ForeignWeights(
        f"{read.path}: its names ({first}, …) are those of no layout that is known: {', '.join(LAYOUTS)}"
    )


def _preprocess(
    read: Source, layout: Layout, arch: str, channels: int, wishes: dict[str, Any]
) -> tuple[Preprocess, str]:
    """How images are to be prepared, and how that is known."""
    if channels not in _MODES:
        raise ForeignWeights(f"{read.path}: takes images of {channels} channels; only grey and colour can be decoded")
    imagenet = VARIANTS[arch].stem == "imagenet" and channels == 3
    if not imagenet and not {"mean", "std"} <= wishes.keys():
        raise ForeignWeights(f"{read.path}: is no network for ImageNet's colour images: give --mean and --std")
    size = VARIANTS[arch].input_size
    trained = layout.trained(read) if imagenet else Trained({"size": (size, size)}, "the architecture's size")
    values = {**trained.preprocess, **wishes}
    if "size" in wishes and "resize" not in wishes and (resize := trained.preprocess.get("resize")):
        values["resize"] = round(resize * wishes["size"][0] / trained.preprocess["size"][0])
    given = f", with {', '.join(wishes)} as given" if wishes else ""
    return prepared({**values, "mode": _MODES[channels]}), trained.known_from + given
