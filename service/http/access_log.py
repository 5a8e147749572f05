"""Sees every request come and go: gives it an id, and makes a log line, metrics and spans of its record."""

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
    """Who sends a request: the name that authentication found, or else the address."""
    named: str | None = scope.get("caller")
    if named is not None:
        return named
    client = scope.get("client")
    return client[0] if client else ""


class AccessLogMiddleware:
    """ASGI middleware around everything that can be asked."""

    def __init__(self, app: ASGIApp, metrics: Metrics, spans: Spans | None) -> None:
        self._app = app
        self._metrics = metrics
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = _begin(scope)
        request_id = context.request_id.encode()
        status = 500  # of an exception that nobody caught; the server answers it

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
                if self._spans is not None:
                    self._spans.describe(context)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            context.caller = caller(scope)
            self._finish(context, status)

    def _finish(self, context: RequestContext, status: int) -> None:
        seconds = time.monotonic() - context.started
        self._metrics.request(context, status, seconds)
        if self._spans is not None:
            self._spans.stages(context)
        if log.isEnabledFor(logging.INFO):
            fields = {"fields": partial(_fields, context, status, seconds)}
            message = ("%s %s %d", (context.method, context.path, status))
            # As `log.info` does, which would look for the line of code that calls it: half of the cost.
            log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, *message, None, extra=fields))


def _begin(scope: Scope) -> RequestContext:
    given = header(scope, REQUEST_ID)
    context = RequestContext(
        request_id=given if _ACCEPTED_ID.fullmatch(given) else f"{getrandbits(64):016x}",
        method=scope["method"],
        # As it was sent: with percent signs it cannot break a line of the log.
        path=scope.get("raw_path", b"").decode("latin-1") or scope["path"],
    )
    request_context.begin(context)
    return context


def _fields(context: RequestContext, status: int, seconds: float) -> dict[str, Any]:
    """What a log line says of a request, in milliseconds."""
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
