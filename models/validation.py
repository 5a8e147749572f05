"""Errors of libraries as one line for people."""

from __future__ import annotations

from pydantic import ValidationError


def first_error(error: ValidationError) -> str:
    """The first problem of a validation as one line: `field.path: reason`, or the reason alone for the whole object."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def first_line(error: Exception) -> str:
    """The first line of an error; of a validation, its first problem, which pydantic has in the third line."""
    if isinstance(error, ValidationError):
        return first_error(error)
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
