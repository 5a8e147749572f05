"""Names of classes: from a file, or those of ImageNet-1k."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from export.errors import ForeignWeights

IMAGENET_CLASSES = 1000


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
