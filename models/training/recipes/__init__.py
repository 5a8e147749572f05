"""Recipes as data: the named ones of this folder, and files in TOML or JSON."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.files import decode_text
from models.training.recipe import Option, Recipe, RecipeError, options


def names() -> list[str]:
    """The named recipes."""
    files = resources.files(__package__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read(name_or_file: str) -> dict[str, Any]:
    """The values of a named recipe or of a recipe file, by the fields of `Recipe`.

    Raises:
        RecipeError: there is no such recipe or file, or the file is no recipe.
    """
    if name_or_file in names():
        content = resources.files(__package__).joinpath(f"{name_or_file}.toml").read_bytes()
    else:
        try:
            content = Path(name_or_file).read_bytes()
        except OSError as error:
            raise RecipeError(
                f"--recipe {name_or_file}: is neither a recipe ({', '.join(names())}) nor a file that can be read: "
                f"{error.strerror}"
            ) from error
    try:
        text = decode_text(content)
        values = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"--recipe {name_or_file}: is no file in TOML or JSON: {error}") from error
    unknown = sorted(values.keys() - {each.name for each in fields(Recipe)})
    if unknown:
        raise RecipeError(f"--recipe {name_or_file}: has the unknown key {unknown[0]!r}: see recipe.toml of a run")
    return dict(values)


def make(values: dict[str, Any]) -> Recipe:
    """The recipe with these values, and defaults for the others.

    Raises:
        RecipeError: a value has the wrong type or is out of range.
    """
    try:
        return Recipe(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        option = options().get(name, Option("", "")).flag or f"--{name.replace('_', '-')}"
        if problem["type"] == "literal_error":
            choices = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            raise RecipeError(f"{option} takes {choices}, not {problem['input']!r}") from error
        if problem["type"] == "value_error":
            raise RecipeError(str(problem["ctx"]["error"])) from error
        reason = problem["msg"].replace("Input should", "must", 1)
        raise RecipeError(f"{option} {problem['input']}: {reason}") from error


def to_toml(recipe: Recipe) -> str:
    """A recipe as the text of a file."""
    values = asdict(recipe)
    network = values.pop("options")
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    if network:
        lines += ["", "[options]", *(f"{key} = {json.dumps(value)}" for key, value in network.items())]
    return "\n".join(lines) + "\n"
