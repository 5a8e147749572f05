"""Limits of what clients may send: connections, requests per second and bytes. Nothing is computed to check them."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.body_memory import BodyMemory
from service.core.errors import ServiceError
from service.core.rate_limit import Rates
from service.core.settings import Settings
from service.http import compat, problem_details
from service.http.access_log import caller
from service.http.connection_state import connection_state
from service.http.request_body import LimitedBody, path
from service.telemetry.metrics import Metrics

PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Paths without limits: an orchestrator that gets no response from a loaded service would stop it."""


class RequestLimitsMiddleware:
    """ASGI middleware that refuses a request above a limit at once, or as soon as the body is above one.

    Args:
        app: the next application.
        settings: the limits.
        metrics: reads the number of requests in flight.
        rates: request rate per client address; None for no limit.
        memory: shared by the bodies of all requests.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, rates: Rates | None, memory: BodyMemory
    ) -> None:
        self._app = app
        self._settings = settings
        self._probes = PROBES | compat.probe_paths(settings.compat)
        self._in_flight = 0
        metrics.watch_requests(lambda: self._in_flight)
        self._memory = memory
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path(scope) in self._probes:
            await self._app(scope, receive, send)
            return
        try:
            await self._check(scope)
            body = LimitedBody(
                scope,
                receive,
                self._memory,
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

    async def _check(self, scope: Scope) -> None:
        refusal = connection_state(scope).refusal
        if refusal is not None:
            raise refusal
        if self._rates is not None:
            await self._rates.take(caller(scope))
