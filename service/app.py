"""The application: startup, run, shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.settings import Settings
from service.decoding.decoder import Decoder
from service.executors.cuda.gpu_batcher import DecodeBatcher
from service.executors.cuda.gpu_jpeg import open_decoder
from service.http import health, problem_details, v1, v2, web_ui
from service.http.access_log import AccessLogMiddleware
from service.http.api_keys import ApiKeyStore, require_api_key
from service.http.limits import RequestLimitsMiddleware
from service.http.parameters import Shortcut
from service.http.problem_details import Problem
from service.http.rate_limit import RateLimiter
from service.inference.pipeline import Pipeline
from service.registry.registry import Registry
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)


class Service:
    """The two sides joined: the registry computes what the pipeline asks for.

    Args:
        settings: all of them.

    Raises:
        ExecutorError: `decode_gpu` is set and that GPU cannot decode.
    """

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self.registry = Registry(settings, self.metrics)
        gpu = open_decoder(settings.decode_gpu, settings.max_pixels)
        decoder = Decoder(
            settings.decode_threads, settings.max_pixels, settings.decode, None if gpu is None else DecodeBatcher(gpu)
        )
        self.pipeline = Pipeline(self.registry, decoder, settings, self.metrics)

    async def start(self) -> None:
        """Load and warm up every model; a model that fails leaves its reason in the registry."""
        await self.registry.start()
        if reasons := self.registry.not_ready():
            log.warning("not ready: %s", "; ".join(reasons))
        else:
            log.info("ready")

    async def close(self) -> None:
        """Finish the requests that were accepted, then free everything."""
        await self.registry.close()
        self.pipeline.close()


def create_app(settings: Settings, tracer_provider: TracerProvider | None = None) -> FastAPI:
    """The service as an ASGI application. Models are loaded in the background once it has started.

    Args:
        settings: all of them.
        tracer_provider: where spans go, if anywhere; flushed at the end.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            await service.close()
            await following
            if tracer_provider is not None:
                await asyncio.to_thread(tracer_provider.shutdown)

    async def follow() -> None:
        await service.start()
        await service.registry.watch()

    service = Service(settings)
    pipeline = service.pipeline
    app = Application(
        title="resnet-serve",
        version=version("resnet-serve"),
        description="Classifies images with residual networks.",
        lifespan=lifespan,
        telemetry={
            "tracing": tracer_provider is not None,
            "tracer_provider": tracer_provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
        },
    )
    app.state.service = service
    app.state.pipeline = pipeline
    app.state.metrics = service.metrics
    problem_details.install(app)
    ring = None if settings.api_keys is None else ApiKeyStore(settings.api_keys)
    rates = RateLimiter(settings.rate_limit, settings.rate_burst) if settings.rate_limit else None
    v1.install(app, **require_api_key(ring, rates, "classify", Problem))
    app.include_router(v2.router, **require_api_key(ring, rates, "classify", v2.Error))
    if settings.admin:
        app.include_router(v2.admin, **require_api_key(ring, rates, "admin", v2.Error))
    app.include_router(v2.probes)
    app.include_router(health.router)
    web_ui.install(app, settings)

    # From the inside. Tracing has FastAPI's router tell a request's span of its route.
    inside = app.inside if tracer_provider is not None else Shortcut(app.inside, app)
    # Who has a key is limited by it, once it is known.
    app.entrance = RequestLimitsMiddleware(inside, settings, service.metrics, rates if ring is None else None)
    if settings.cors_origins:
        app.entrance = CORSMiddleware(
            app.entrance,
            allow_origins=settings.cors_origins.split(),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id", v2.LENGTH_HEADER],
            expose_headers=["Retry-After", "X-Request-Id", v2.LENGTH_HEADER],
        )
    app.entrance = AccessLogMiddleware(
        app.entrance, service.metrics, Spans(tracer_provider) if tracer_provider else None
    )
    return app


class Application(FastAPI):
    """Has its middlewares around all of FastAPI: a request need not come to it."""

    entrance: ASGIApp
    """The outermost middleware."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self
            await self.entrance(scope, receive, send)
        else:
            await self.inside(scope, receive, send)

    async def inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI itself."""
        await super().__call__(scope, receive, send)
