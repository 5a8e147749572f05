"""Names of classes: from a file, or those of ImageNet-1k."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from export.errors import ForeignWeights

_IMAGENET_CLASSES = 1000


def imagenet() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1k, in the order that published weights have."""
    text = resources.files("export.importing").joinpath("imagenet1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read(path: Path) -> tuple[str, ...]:
    """One name a line, or JSON: a list, or an object of numbers and names.

    Raises:
        ForeignWeights: it cannot be read, or is none of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        content = json.loads(text)
        if isinstance(content, dict):
            content = [content[str(index)] for index in range(len(content))]
    except KeyError as error:
        raise ForeignWeights(f"{path}: has no class {error}: the numbers must run from 0") from error
    except (OSError, ValueError) as error:
        raise ForeignWeights(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ForeignWeights(f"{path}: is neither a list of names nor an object of numbers and names")
    return tuple(content)


def choose(
    weights: Path, classes: int, file: Path | None, beside: Sequence[str] | None = None
) -> tuple[tuple[str, ...], str]:
    """Names for so many classes, and where they are from.

    Args:
        weights: file that has the classes, for messages.
        classes: how many it has.
        file: of names, where one is given.
        beside: names that lie beside the weights, where they do.

    Raises:
        ForeignWeights: nothing names them, or there are more or fewer names.
    """
    if file is not None:
        names, known_from = read(file), str(file)
    elif beside is not None:
        names, known_from = tuple(beside), "beside the weights"
    elif classes == _IMAGENET_CLASSES:
        names, known_from = imagenet(), "ImageNet-1k"
    else:
        raise ForeignWeights(f"{weights}: has {classes} classes, and nothing names them: give --labels FILE")
    if len(names) != classes:
        raise ForeignWeights(f"{weights}: has {classes} classes, but there are {len(names)} labels ({known_from})")
    return names, known_from
