"""Every error as application/problem+json (RFC 9457)."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service import record
from service.errors import BadRequest, ServiceError
from service.pipeline import problem
from service.schemas import Problem

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""The status in log and metrics of requests whose client hung up; the number that nginx uses."""


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def respond(error: ServiceError) -> Response:
    """The answer to a request that failed; the reason goes into its record."""
    record.current().refused = error.reason
    return _respond(problem(error), error.headers)


def _respond(content: Problem, headers: dict[str, str] | None = None) -> Response:
    content = content.model_copy(update={"request_id": record.current().request_id})
    return Response(content.model_dump_json(), content.status, headers, "application/problem+json")


async def _service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return respond(error)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return _respond(problem(BadRequest(f"{place}: {first['msg']}" if place else str(first["msg"]))))


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Not found", 405: "Method not allowed", 400: "Malformed request"}
    hint = {404: "no such path; /docs lists them", 405: "this path does not take that method; /docs lists them"}
    content = Problem(
        title=titles.get(error.status_code, "Error"),
        status=error.status_code,
        detail=hint.get(error.status_code, str(error.detail)),
    )
    return _respond(content, dict(error.headers or {}))


async def _gone(_: Request, error: Exception) -> Response:
    # Nobody reads this; without it every client that hangs up would be a traceback in the log.
    return Response(status_code=CLIENT_GONE)


async def _unexpected(request: Request, error: Exception) -> Response:
    request_id = record.current().request_id
    log.error(
        "%s %s failed", request.method, request.url.path, exc_info=error, extra={"fields": {"request_id": request_id}}
    )
    content = Problem(title="Internal error", status=500, detail="the server's log has the cause")
    return _respond(content, {"X-Request-Id": request_id})
