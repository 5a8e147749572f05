"""What a client may ask of the service before anything is computed: connections, requests a second, and bytes."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.errors import Overloaded, ServiceError
from service.core.settings import Settings
from service.http import problem_details
from service.http.access_log import caller
from service.http.protocol import OVER_CONNECTION_LIMIT
from service.http.rate_limit import RateLimiter
from service.http.request_body import BodyMemory, LimitedBody, path
from service.telemetry.metrics import Metrics

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered in any case: an orchestrator that cannot reach a loaded service would end it."""


class RequestLimitsMiddleware:
    """ASGI middleware that refuses at once what is over a limit, and what turns out to be, as the body comes in."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, rates: RateLimiter | None) -> None:
        self._app = app
        self._settings = settings
        self._in_flight = 0
        metrics.watch_requests(lambda: self._in_flight)
        self._held = BodyMemory(settings.max_buffered_body_bytes)
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if path(scope) in PROBES:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
            body = LimitedBody(
                scope,
                receive,
                self._held,
                max_bytes=self._settings.max_body_bytes,
                max_decompressed=self._settings.max_decompressed_bytes,
                seconds=self._settings.client_timeout_seconds,
            )
        except ServiceError as error:
            await problem_details.respond(scope, error)(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._in_flight -= 1
            body.release()

    def _check(self, scope: Scope) -> None:
        if OVER_CONNECTION_LIMIT in scope.get("extensions", ()):
            raise Overloaded(1, "connections")
        if self._rates is not None:
            self._rates.take(caller(scope))
