"""The paths below the two names of a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from models.artifact.manifest import VERSION
from service.core.naming import ENCODED
from service.http.openapi import errors
from service.http.v2.schemas import Error
from service.open_inference.model_name import NAME_PATTERN, ModelName

Name = Annotated[
    str,
    Path(
        pattern=NAME_PATTERN,
        description=f"Name of a model, whose input is pixels; with the suffix {ENCODED} the input is image files.",
    ),
]
Version = Annotated[str, Path(pattern=VERSION, description="Version of the model.")]

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
