"""Access log: gives each request an id, and writes a log line, metrics and spans from its context."""

from __future__ import annotations

import logging
import re
import time
from functools import partial
from random import getrandbits
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.request_body import header
from service.telemetry import request_context
from service.telemetry.metrics import Metrics
from service.telemetry.request_context import RequestContext

if TYPE_CHECKING:
    from service.telemetry.tracing import Spans

log = logging.getLogger(__name__)

REQUEST_ID = b"x-request-id"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def caller(scope: Scope) -> str:
    """The sender of a request: the name of its API key, or the address of the client."""
    name: str | None = scope.get("caller")
    if name is not None:
        return name
    client = scope.get("client")
    return client[0] if client else ""


class AccessLogMiddleware:
    """ASGI middleware around all others of the service.

    Args:
        app: the next application.
        metrics: counts requests.
        spans: adds spans to the trace of each request; None without tracing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, spans: Spans | None) -> None:
        self._app = app
        self._metrics = metrics
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = _begin(scope)
        if scope["method"] == "HEAD":  # every path with GET has HEAD as well; the server leaves out the body
            scope = {**scope, "method": "GET"}
        status = 500  # of an exception that no handler answers: ServerErrorMiddleware, further out, does

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, context.request_id.encode())]
                if self._spans is not None:
                    self._spans.describe(context)
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            context.caller = caller(scope)
            self._finish(context, status)

    def _finish(self, context: RequestContext, status: int) -> None:
        seconds = time.monotonic() - context.started
        self._metrics.request(context, status, seconds)
        if self._spans is not None:
            if context.span is None:  # an unexpected error, which has no response yet
                self._spans.describe(context)
            self._spans.stages(context)
        if log.isEnabledFor(logging.INFO):
            fields = {"fields": partial(_fields, context, status, seconds)}
            message = ("%s %s %d", (context.method, context.path, status))
            # `log.info` also finds the calling line of code, which is half of its cost.
            log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, *message, None, extra=fields))


def _begin(scope: Scope) -> RequestContext:
    given = header(scope, REQUEST_ID)
    context = RequestContext(
        request_id=given if _ACCEPTED_ID.fullmatch(given) else f"{getrandbits(64):016x}",
        method=scope["method"],
        # As sent: with percent-encoding it cannot break a line of the log.
        path=scope.get("raw_path", b"").decode("latin-1") or scope["path"],
    )
    request_context.begin(context)
    return context


def _fields(context: RequestContext, status: int, seconds: float) -> dict[str, Any]:
    """The fields of the log line of a request; times in milliseconds."""
    fields: dict[str, Any] = {
        "request_id": context.request_id,
        "caller": context.caller,
        "method": context.method,
        "path": context.path,
        "status": status,
        "total_ms": round(seconds * 1000, 3),
    }
    if context.refused:
        fields["refused"] = context.refused
    if context.model:
        fields |= {"model": context.model, "version": context.version, "priority": context.priority}
        fields |= {"images": context.images, "batch_size": context.batch_size}
    for name, _, stage_seconds in context.stages:
        name = f"{name}_ms"
        fields[name] = round(fields.get(name, 0.0) + stage_seconds * 1000, 3)
    return fields
