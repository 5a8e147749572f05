"""Names of classes, from a file or of ImageNet-1k."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from export.errors import ForeignWeights
from models.files import decode_text

_IMAGENET_CLASSES = 1000


def imagenet() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1k, in the order of published weights."""
    text = resources.files("export.importing").joinpath("imagenet1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read(path: Path) -> tuple[str, ...]:
    """Read names: one per line, or JSON with a list, or with an object from numbers to names.

    Raises:
        ForeignWeights: the file cannot be read, or has another form.
    """
    try:
        text = decode_text(path.read_bytes())
        if path.suffix != ".json":
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        content = json.loads(text)
        if isinstance(content, dict):
            content = [content[str(index)] for index in range(len(content))]
    except KeyError as error:
        raise ForeignWeights(f"{path}: has no class {error}: numbers must begin with 0 and have no gap") from error
    except (OSError, ValueError) as error:
        raise ForeignWeights(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ForeignWeights(f"{path}: is neither a list of names nor an object from numbers to names")
    return tuple(content)


def resolve_labels(
    weights: Path, classes: int, file: Path | None, beside: Sequence[str] | None = None
) -> tuple[tuple[str, ...], str]:
    """The names of classes, and their source.

    Args:
        weights: file of the weights, for messages.
        classes: number of classes.
        file: file with the names, if one is given.
        beside: names from a file beside the weights, if there is one.

    Raises:
        ForeignWeights: there are no names, or their number differs from the number of classes, or one is no text.
    """
    if file is not None:
        names, source = read(file), str(file)
    elif beside is not None and len(beside) == classes:  # other names describe another file
        names, source = tuple(map(str, beside)), "beside the weights"
    elif classes == _IMAGENET_CLASSES:
        names, source = imagenet(), "ImageNet-1k"
    else:
        raise ForeignWeights(f"{weights}: has {classes} classes without names: give --labels FILE")
    if len(names) != classes:
        raise ForeignWeights(f"{weights}: has {classes} classes, but there are {len(names)} labels ({source})")
    for index, name in enumerate(names):
        if any("\ud800" <= each <= "\udfff" for each in name):
            raise ForeignWeights(f"{weights}: label {index} ({source}) is {name!a}, no text: give --labels FILE")
    return names, source
