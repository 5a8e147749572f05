"""Access log: gives each request an id, and records it after its response."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.request_body import header
from service.inference.routing import VERSION_HEADER
from service.telemetry import request_context
from service.telemetry.metrics import Metrics
from service.telemetry.request_context import RequestContext
from service.telemetry.request_log import RequestLog, request_id

if TYPE_CHECKING:
    from service.telemetry.tracing import Spans

log = logging.getLogger(__name__)

REQUEST_ID = b"x-request-id"
_VERSION = VERSION_HEADER.lower().encode()
SERVER_TIMING = b"server-timing"
"""https://www.w3.org/TR/server-timing"""


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
        self._requests = RequestLog(metrics, spans, log)
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
                if context.routed and context.version:
                    message["headers"].append((_VERSION, context.version.encode()))
                if context.load_seconds:
                    duration = f"load;dur={context.load_seconds * 1000:.1f}".encode()
                    message["headers"].append((SERVER_TIMING, duration))
                if self._spans is not None:
                    self._spans.describe(context)
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            context.caller = caller(scope)
            self._requests.finish(context, status, failed=status >= 400)


def _begin(scope: Scope) -> RequestContext:
    context = RequestContext(
        request_id=request_id(header(scope, REQUEST_ID)),
        method=scope["method"],
        # As sent: with percent-encoding it cannot break a line of the log.
        path=scope.get("raw_path", b"").decode("latin-1") or scope["path"],
        headers=scope["headers"],
    )
    request_context.begin(context)
    return context
