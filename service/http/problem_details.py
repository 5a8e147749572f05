"""Every error as application/problem+json (RFC 9457); under /v2 as that protocol has it, {"error": "…"}."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from service.core.errors import BadRequest, ServiceError
from service.telemetry import request_context

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""The status in log and metrics of requests whose client hung up; the number that nginx uses."""


_MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None
    """Of the request that failed, as in the header X-Request-Id and the log."""


def problem(error: ServiceError) -> Problem:
    """An error as the caller sees it."""
    return Problem(title=error.title, status=error.status, detail=str(error))


def install(app: FastAPI) -> None:
    """Register the handlers, and have the documentation say what they answer."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        known = app.openapi_schema is not None
        document = generate()
        return document if known else _document(document)

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def _document(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI documents 422 where a parameter is validated, and application/json for whatever has a schema."""
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            for status, response in list(responses.items()):
                schema = response.get("content", {}).get("application/json", {}).get("schema", {})
                if schema.get("$ref") == "#/components/schemas/HTTPValidationError":
                    del responses[status]
                elif schema.get("$ref") == "#/components/schemas/Problem":
                    response["content"] = {_MEDIA_TYPE: response["content"]["application/json"]}
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document


def respond(scope: Scope, error: ServiceError) -> Response:
    """The answer to a request that failed; the reason goes into its record."""
    request_context.current().refused = error.reason
    return _respond(scope, problem(error), error.headers)


def _respond(scope: Scope, content: Problem, headers: dict[str, str] | None = None) -> Response:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path == "/v2" or path.startswith("/v2/"):
        return JSONResponse({"error": content.detail}, content.status, headers)
    content = content.model_copy(update={"request_id": request_context.current().request_id})
    return Response(content.model_dump_json(), content.status, headers, _MEDIA_TYPE)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return respond(request.scope, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return _respond(request.scope, problem(BadRequest(f"{place}: {first['msg']}" if place else str(first["msg"]))))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Not found", 405: "Method not allowed", 400: "Malformed request"}
    hint = {404: "no such path; /docs lists them", 405: "this path does not take that method; /docs lists them"}
    content = Problem(
        title=titles.get(error.status_code, "Error"),
        status=error.status_code,
        detail=hint.get(error.status_code, str(error.detail)),
    )
    return _respond(request.scope, content, dict(error.headers or {}))


async def _gone(request: Request, error: Exception) -> Response:
    # Nobody reads this; without it every client that hangs up would be a traceback in the log.
    return Response(status_code=CLIENT_GONE)


async def _unexpected(request: Request, error: Exception) -> Response:
    request_id = request_context.current().request_id
    log.error(
        "%s %s failed", request.method, request.url.path, exc_info=error, extra={"fields": {"request_id": request_id}}
    )
    content = Problem(title="Internal error", status=500, detail="the server's log has the cause")
    return _respond(request.scope, content)
