"""Options and checks that several commands share."""

from __future__ import annotations

import re
from typing import Any

import typer

from models.artifact.manifest import MODEL_NAME
from models.console import fail


def check_name(name: str) -> None:
    """End the process if a model cannot have this name."""
    if not re.match(MODEL_NAME, name):
        fail(f"{name!r} is no model name: use letters, digits, '.', '_' and '-', beginning with a letter or digit")


def preprocess_overrides(
    size: int | None, resize: int | None, interpolation: str | None, mean: str | None, std: str | None
) -> dict[str, Any]:
    """The fields of `Preprocess` that options set."""
    given: dict[str, Any] = {
        "size": None if size is None else (size, size),
        "interpolation": interpolation,
        "mean": None if mean is None else _numbers("--mean", mean),
        "std": None if std is None else _numbers("--std", std),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return chosen if resize is None else {**chosen, "resize": resize or None}


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers such as 0.485,0.456,0.406, not {text!r}") from None
