"""Query parameters: an unknown one is an error that names the right one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fastapi import Depends, Request

from models.suggestions import closest
from service.core.errors import BadRequest


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Check the names of query parameters.

    Args:
        given: names in the request.
        known: names that the path takes.

    Raises:
        BadRequest: there is an unknown one.
    """
    if unknown := sorted(set(given).difference(known)):
        raise BadRequest(
            f"there is no query parameter {unknown[0]!r}{_suggestion(unknown[0], known)}; there are: {', '.join(known)}"
        )


def only(*known: str) -> Any:
    """Dependency of a FastAPI route that takes these query parameters."""

    async def check(request: Request) -> None:
        if request.scope["query_string"]:
            check_names(request.query_params, known)

    return Depends(check)


def refuse(request: Request, hints: Mapping[str, str]) -> None:
    """Refuse all query parameters, for a path that takes none.

    Args:
        request: the request.
        hints: what to write instead, by the name of the parameter of another path.

    Raises:
        BadRequest: there is one.
    """
    for name in request.query_params:
        meant = _closest(name, hints)
        hint = "leave it out" if meant is None else hints[meant]
        raise BadRequest(f"the path takes no query parameters, and the request has {name!r}: {hint}")


def _suggestion(name: str, known: Collection[str]) -> str:
    meant = _closest(name, known)
    return "" if meant is None else f": did you mean {meant!r}?"


def _closest(name: str, known: Collection[str]) -> str | None:
    return next(iter(closest(name, known)), None)
