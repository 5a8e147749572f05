"""The two names of a model, and the paths below them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from service.core.naming import ENCODED
from service.http.openapi import errors
from service.http.v2.schemas import Error

Name = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,135}$",
        description=f"Name of a model, whose input is pixels; with the suffix {ENCODED} the input is image files.",
    ),
]
Version = Annotated[str, Path(pattern=r"^[1-9][0-9]{0,17}$", description="Version of the model.")]


@dataclass(frozen=True)
class ModelName:
    """A model under one of its two names."""

    name: str
    """Name in the request."""
    model: str
    """Name in the repository."""
    version: str | None = None

    @classmethod
    def of(cls, name: str, version: str | None = None) -> ModelName:
        """Read a name of a request."""
        return cls(name, name.removesuffix(ENCODED), version)

    @property
    def encoded(self) -> bool:
        """Whether the input of this name is image files."""
        return self.name != self.model


Handler = Callable[[Request, ModelName], Awaitable[Any]]


def add(router: APIRouter, method: str, path: str, handler: Handler, **options: Any) -> None:
    """Register a path below a model, and below each version of it."""

    async def current(request: Request, model: Name) -> Any:
        return await handler(request, ModelName.of(model))

    async def with_version(request: Request, model: Name, version: Version) -> Any:
        return await handler(request, ModelName.of(model, version))

    options = {"methods": [method], "name": handler.__name__, "description": handler.__doc__, **options}
    options["responses"] = errors(Error, 400, 404, 429, 503) | options.get("responses", {})
    router.add_api_route(f"/models/{{model}}{path}", current, **options)
    router.add_api_route(f"/models/{{model}}/versions/{{version}}{path}", with_version, **options)
