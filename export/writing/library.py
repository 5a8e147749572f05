"""The interface of a library that checkpoints are written for, and the networks that none of them has."""

from __future__ import annotations

from typing import Any, Protocol

from models.architectures import VARIANTS
from models.architectures.blocks import PostActivationBlock
from models.training.checkpoint import Checkpoint


class Library(Protocol):
    """Interface of a library's module."""

    def reason(self, checkpoint: Checkpoint) -> str | None:
        """Why the library has no network that computes the same; None if it has one."""
        ...

    def files(self, checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
        """Names and content of the JSON files beside the weights; empty if there are none.

        Raises:
            BuildError: the library has no such preprocessing.
        """
        ...


def common_reason(checkpoint: Checkpoint) -> str | None:
    """Why none of the libraries has the network; None if one may have it."""
    variant = VARIANTS[checkpoint.architecture.name]
    if variant.block is not PostActivationBlock:
        return "its blocks have another order of additions and ReLUs"
    if shortcut(checkpoint) not in ("B", "D"):
        return f"its shortcuts are of option {shortcut(checkpoint)}"
    if checkpoint.architecture.options.get("norm", "batch") != "batch":
        return "it has no normalisation"
    if not variant.reduces_early:
        return "its stem has no stride, for images as small as those of CIFAR"
    return None


def shortcut(checkpoint: Checkpoint) -> str:
    """The option of the network's shortcuts."""
    given: str | None = checkpoint.architecture.options.get("shortcut")
    return given or VARIANTS[checkpoint.architecture.name].shortcut


def has_usual_stem(checkpoint: Checkpoint) -> bool:
    """Whether the stem is a single 7x7 convolution."""
    return len(VARIANTS[checkpoint.architecture.name].stem) == 1
