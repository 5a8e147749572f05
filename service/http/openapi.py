"""The OpenAPI document: all routes, with their errors as they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.routing import BaseRoute

Responses = dict[int | str, dict[str, Any]]

PROBLEM_MEDIA_TYPE = "application/problem+json"

_DESCRIPTIONS = {
    400: "Malformed request",
    401: "No such API key",
    403: "The API key lacks the scope",
    404: "No such model or version",
    408: "Body sent too slowly",
    413: "Too many bytes, pixels or images",
    415: "Content-Type or Content-Encoding not supported",
    422: "Not a usable image",
    429: "Request rate of the caller exceeded (with Retry-After)",
    500: "Inference failed",
    503: "Not ready, or overloaded (with Retry-After)",
    504: "Time limit passed",
}


def errors(schema: type[BaseModel], *statuses: int) -> Responses:
    """FastAPI's `responses` for some statuses, all with one schema."""
    return {status: {"model": schema, "description": _DESCRIPTIONS[status]} for status in statuses}


def body_schema(model: type[BaseModel]) -> Any:
    """The JSON schema of a body, without references: FastAPI publishes schemas only of bodies that it reads itself."""
    schema = model.model_json_schema()
    return _inlined(schema, schema.pop("$defs", {}))


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(item, definitions) for item in schema] if isinstance(schema, list) else schema


def install(app: FastAPI, documented: Sequence[BaseRoute]) -> None:
    """Set `app.openapi`, as in FastAPI's documentation ("Extending OpenAPI").

    Args:
        app: the application.
        documented: FastAPI routes that describe the plain Starlette routes, which FastAPI leaves out.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            routes = [*documented, *app.routes]
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=routes)
            app.openapi_schema = _correct_errors(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _correct_errors(document: dict[str, Any]) -> dict[str, Any]:
    """Describe errors as `problem_details` answers them.

    FastAPI documents 422 for each route with parameters, and the content type of the route for each of its errors.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            for status, response in list(responses.items()):
                content: dict[str, Any] = next(iter(response.get("content", {}).values()), {})
                reference = content.get("schema", {}).get("$ref")
                if reference == "#/components/schemas/HTTPValidationError":
                    del responses[status]
                elif reference == "#/components/schemas/Problem":
                    response["content"] = {PROBLEM_MEDIA_TYPE: content}
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document
