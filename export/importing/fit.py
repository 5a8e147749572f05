"""Compares tensors of another layout with an architecture, and renames them if they fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from export.importing.layout import WeightsLayout
from models import architectures
from models.architectures import VARIANTS

COUNTER = ".num_batches_tracked"
"""Suffix of counters that inference does not use, and that files before PyTorch 0.4.1 lack."""
_MAX_LISTED = 6


@dataclass(frozen=True)
class ArchitectureMismatch:
    """The differences of a file from an architecture, by the file's names."""

    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    shapes: tuple[str, ...]
    headless: bool = False
    """Whether only the last layer is missing."""

    def __str__(self) -> str:
        if self.headless:
            return f"the last layer is missing ({_listed(self.missing)}): they are a backbone, not a classifier"
        kinds = (("missing", self.missing), ("left over", self.left_over), ("of another shape", self.shapes))
        return "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds if names)


@dataclass(frozen=True)
class Fit:
    """Weights under the names of the architecture, as the file stores them."""

    weights: dict[str, Tensor]
    options: dict[str, Any]
    """Options of the architecture."""
    counters: bool = True
    """Whether the file has the counters of batches; if not, they are zero."""


def fit(tensors: Mapping[str, Tensor], layout: WeightsLayout, arch: str) -> Fit | ArchitectureMismatch:
    """The weights of an architecture, or the differences from it.

    A network of the CIFAR family is also tried with projection shortcuts, option B of the paper.

    Raises:
        UnknownArchitecture: no architecture has this name.
    """
    first: ArchitectureMismatch | None = None
    choices: tuple[dict[str, Any], ...] = ({}, {"shortcut": "B"})
    for options in choices if arch in VARIANTS and VARIANTS[arch].shortcut == "A" else choices[:1]:
        found = _fit(tensors, layout, arch, options)
        if isinstance(found, Fit):
            return found
        first = first or found
    assert first is not None
    return first


def classes_of(tensors: Mapping[str, Tensor], layout: WeightsLayout) -> int:
    """Rows of the last layer; 1 if it is missing, which the comparison then reports."""
    head = tensors.get(layout.rename("classifier.weight"))
    return 1 if head is None else len(head)


def channels_of(tensors: Mapping[str, Tensor], layout: WeightsLayout) -> int:
    """Input channels of the first convolution; 3 if it is missing."""
    for first in ("stem.conv.weight", "stem.0.conv.weight"):
        stem = tensors.get(layout.rename(first))
        if stem is not None and stem.ndim == 4:
            return stem.shape[1]
    return 3


def _fit(
    tensors: Mapping[str, Tensor], layout: WeightsLayout, arch: str, options: dict[str, Any]
) -> Fit | ArchitectureMismatch:
    with torch.device("meta"):
        model = architectures.build(arch, classes_of(tensors, layout), channels_of(tensors, layout), **options)
    expected = {layout.rename(key): (key, value) for key, value in model.state_dict().items()}
    missing = [name for name in expected if name not in tensors and not name.endswith(COUNTER)]
    left_over = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} {list(tensors[name].shape)}, not {list(value.shape)}"
        for name, (_, value) in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if missing or left_over or shapes:
        head = {layout.rename("classifier.weight"), layout.rename("classifier.bias")}
        headless = set(missing) == head and not left_over and not shapes
        return ArchitectureMismatch(tuple(missing), tuple(left_over), tuple(shapes), headless)
    weights = {key: tensors.get(name, torch.zeros((), dtype=torch.int64)) for name, (key, _) in expected.items()}
    counted = {key for key, value in expected.values() if not value.is_floating_point()}
    weights = {key: value.long() if key in counted else value for key, value in weights.items()}
    return Fit(weights, options, any(name.endswith(COUNTER) for name in tensors))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
