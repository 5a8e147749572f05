"""Errors as application/problem+json (RFC 9457); under /v2 and for OpenAI's clients in the form of that protocol."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from service.core.errors import BadRequest, Overloaded, ServiceError
from service.http.openapi import PROBLEM_MEDIA_TYPE
from service.http.request_body import path
from service.telemetry import request_context

log = logging.getLogger(__name__)

CLIENT_DISCONNECTED = 499
"""Status in the log and the metrics if the client disconnected before the response; the number that nginx uses."""


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None
    """The id of the request, as in the header X-Request-Id and the log."""


EMBEDDINGS_PATH = "/v1/embeddings"
"""Path whose errors OpenAI's clients read."""


class OpenAIErrorDetail(BaseModel):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None = None
    code: str | None = None


class OpenAIError(BaseModel):
    """An error as OpenAI's clients read it."""

    error: OpenAIErrorDetail


_OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


def problem(error: ServiceError) -> Problem:
    """Describe an error."""
    return Problem(title=error.title, status=error.status, detail=str(error))


ErrorForm = Callable[[Problem], dict[str, Any]]
"""Gives the JSON of an error in the form of another platform."""


def use_form(app: FastAPI, paths: str, form: ErrorForm) -> None:
    """Answer errors of paths in the form of another platform.

    Args:
        app: the application, after `install`.
        paths: regular expression of the paths.
        form: the form.
    """
    app.state.error_forms.append((re.compile(paths), form))


def install(app: FastAPI) -> None:
    """Register the exception handlers."""
    app.state.error_forms = []
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_disconnected)
    app.add_exception_handler(MemoryError, _out_of_memory)
    app.add_exception_handler(Exception, _unexpected_error)


def respond(scope: Scope, error: ServiceError) -> Response:
    """Make the response for an error, and record its reason in the context of the request."""
    request_context.current().refused = error.reason
    return _respond(scope, problem(error), error.headers)


def _respond(scope: Scope, content: Problem, headers: dict[str, str] | None = None) -> Response:
    if (path(scope) + "/").startswith("/v2/"):
        return JSONResponse({"error": content.detail}, content.status, headers)
    for paths, form in scope["app"].state.error_forms if "app" in scope else ():
        if paths.fullmatch(path(scope)):
            return JSONResponse(form(content), content.status, headers)
    if path(scope) == EMBEDDINGS_PATH:
        return JSONResponse(_openai_error(content).model_dump(), content.status, headers)
    content = content.model_copy(update={"request_id": request_context.current().request_id})
    return Response(content.model_dump_json(), content.status, headers, PROBLEM_MEDIA_TYPE)


def _openai_error(content: Problem) -> OpenAIError:
    kind: Literal["invalid_request_error", "server_error"]
    kind = "server_error" if content.status >= 500 else "invalid_request_error"
    code = _OPENAI_CODES.get(content.status)
    return OpenAIError(error=OpenAIErrorDetail(message=content.detail, type=kind, code=code))


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return respond(request.scope, error)


async def _out_of_memory(request: Request, error: Exception) -> Response:
    log.warning("out of memory: %s %s", request.method, request.url.path, exc_info=error)
    return respond(request.scope, Overloaded(1, "memory"))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return _respond(request.scope, problem(BadRequest(f"{place}: {first['msg']}" if place else str(first["msg"]))))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Not found", 405: "Method not allowed", 400: "Malformed request"}
    headers = dict(error.headers or {})
    hint = {404: "there is no such path; /docs lists the paths"}
    if error.status_code == 405:
        headers["Allow"] = _allowed_methods(request, headers["Allow"])
        hint[405] = f"the path accepts {headers['Allow']}, not {request.method}"
    content = Problem(
        title=titles.get(error.status_code, "Error"),
        status=error.status_code,
        detail=hint.get(error.status_code, str(error.detail)),
    )
    return _respond(request.scope, content, headers)


def _allowed_methods(request: Request, known: str) -> str:
    """Methods of all routes of a path. Starlette's own header has those of the first one only.

    Args:
        request: the request.
        known: methods of the first route.
    """
    first = known.partition(",")[0].lower()
    for template, operations in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\\{[^}]*}", "[^/]+", re.escape(template))
        if first in operations and re.fullmatch(pattern, path(request.scope)):
            return ", ".join(sorted(method.upper() for method in operations))
    return known


async def _client_disconnected(request: Request, error: Exception) -> Response:
    # Not sent to any client; without it, the log would have a traceback.
    return Response(status_code=CLIENT_DISCONNECTED)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    request_id = request_context.current().request_id
    log.error(
        "%s %s failed", request.method, request.url.path, exc_info=error, extra={"fields": {"request_id": request_id}}
    )
    content = Problem(title="Internal error", status=500, detail="the log of the server has the cause")
    # Sent by ServerErrorMiddleware, outside of the middleware that adds the id to all other responses.
    return _respond(request.scope, content, {"X-Request-Id": request_id})
