"""The options of `resnet-train` that the fields of the recipe declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from models.training.recipe import Recipe, options


def with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each field of the recipe to a command, which gets those that are given as keyword arguments.

    Typer reads options from the signature of a function.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters = [*own, *_parameters()]

    def run(**values: Any) -> None:
        names = {each.name for each in own}
        given = {key: value for key, value in values.items() if key in names or value is not None}
        command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _parameters() -> list[inspect.Parameter]:
    defaults = {each.name: each.default for each in fields(Recipe) if each.default is not MISSING}
    hints = get_type_hints(Recipe, include_extras=True)
    return [_parameter(name, hints[name], defaults[name]) for name in options()]


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    kind, option = hint.__origin__, options()[name]
    flag = option.flag or f"--{name.replace('_', '-')}"
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    declaration = typer.Option(
        f"{flag}/--no-{flag.removeprefix('--')}" if kind is bool else flag,
        help=option.help,
        rich_help_panel=option.group,
        # The default is that of the recipe: None here says that the option is not given.
        show_default=str(default).lower() if kind is bool else str(default),
        metavar="|".join(choices) or None,
        min=None if kind is bool or choices else _bound(hint, "ge"),
        max=None if kind is bool or choices else _bound(hint, "le"),
    )
    value: Any = str if choices else kind
    annotation = Annotated[value | None, declaration]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _bound(hint: Any, name: str) -> float | None:
    """The bound "ge" or "le" of a number, which Typer shows and checks."""
    parts = [part for info in hint.__metadata__ if isinstance(info, FieldInfo) for part in info.metadata]
    return next((getattr(part, name) for part in parts if hasattr(part, name)), None)
