"""The application: joins the two sides of the service, and all routes and middlewares."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware

from models.imaging.allowance import DecodeMemory
from service.core.api_keys import ApiKeyStore
from service.core.body_memory import BodyMemory
from service.core.rate_limit import RateLimiter, Rates
from service.core.settings import Settings
from service.decoding.decoder import Decoder
from service.executors.gpu.gpu_batcher import DecodeBatcher
from service.executors.gpu.gpu_jpeg import open_decoder
from service.http import compat, health, openapi, problem_details, v2, web_ui
from service.http.access_log import AccessLogMiddleware
from service.http.api_keys import ApiKeyCheck
from service.http.limits import RequestLimitsMiddleware
from service.http.problem_details import OpenAIError, Problem
from service.http.v1 import classify, embeddings, lesion, models, rollout
from service.inference.lesion import LesionPipeline
from service.inference.pipeline import Pipeline
from service.inference.routing import VERSION_HEADER
from service.messages.backend import Backend
from service.messages.decoding import GpuDecoder
from service.registry.registry import Registry
from service.telemetry.loop_lag import LoopLagMonitor
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Spans, TraceSelector

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from service.grpc.server import GrpcServer

log = logging.getLogger(__name__)

_CLIENT_HEADERS = ("X-Request-Id", VERSION_HEADER, v2.LENGTH_HEADER)
"""Headers of requests and responses that pages of other origins may use."""


class Side(Protocol):
    """The part of the service that runs in the process of an application."""

    metrics: Metrics
    pipeline: Pipeline
    rates: Rates | None
    """Limits the requests of each client; None for no limit."""
    keys: ApiKeyStore | None
    """None if requests need no key."""

    async def connect(self) -> None:
        """Reach the process that has the models. Called before requests are accepted."""
        ...

    async def start(self) -> None:
        """Load the models, while requests are accepted."""
        ...

    async def watch(self) -> None:
        """Keep up to date, until `close`."""
        ...

    async def close(self) -> None:
        """Finish the requests in flight, then free everything."""
        ...


def make_pipeline(settings: Settings, backend: Backend, metrics: Metrics, gpu: GpuDecoder | None = None) -> Pipeline:
    """The answering side.

    Args:
        settings: limits and defaults.
        backend: computes.
        metrics: counts.
        gpu: decodes JPEG files on a GPU; closed with the pipeline.
    """
    memory = DecodeMemory(settings.max_decode_bytes)
    decoder = Decoder(settings.decode_threads, settings.max_pixels, settings.decode, gpu, memory)
    return Pipeline(backend, decoder, settings, metrics)


def make_rates(settings: Settings) -> RateLimiter | None:
    """The limit of requests per client; None without a limit."""
    return RateLimiter(settings.rate_limit, settings.rate_burst) if settings.rate_limit else None


def open_gpu_decoder(settings: Settings) -> DecodeBatcher | None:
    """The decoder on the GPU of the settings; None without one.

    Raises:
        ExecutorError: `decode_gpu` is set and the GPU cannot decode.
    """
    jpeg = open_decoder(settings.decode_gpu, settings.max_pixels)
    return None if jpeg is None else DecodeBatcher(jpeg)


class Service:
    """Both sides in one process: the pipeline answers requests, the registry computes for it.

    Raises:
        KeyFileError: the file of API keys is not valid.
        ExecutorError: `decode_gpu` is set and the GPU cannot decode.
    """

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self.rates: Rates | None = make_rates(settings)
        self.keys = None if settings.api_keys is None else ApiKeyStore(settings.api_keys)
        self.registry = Registry(settings, self.metrics)
        self._gpu = open_gpu_decoder(settings)
        self.pipeline = make_pipeline(settings, self.registry, self.metrics, self._gpu)

    async def connect(self) -> None:
        """Nothing: this process has the models."""

    async def watch(self) -> None:
        """Apply changes of the repository until `close`."""
        await self.registry.watch()

    async def start(self) -> None:
        """Load and warm up every model; the registry keeps the reason if one fails."""
        await self.registry.start(None if self._gpu is None else self._gpu.warm_up)

    async def close(self) -> None:
        """Finish the requests in flight, then free everything."""
        await self.registry.close()
        self.pipeline.close()


def create_app(
    settings: Settings, tracer_provider: TracerProvider | None = None, service: Side | None = None
) -> FastAPI:
    """Make the ASGI application. Models are loaded in the background after its startup.

    Args:
        settings: settings of the service.
        tracer_provider: receives spans, and is flushed on shutdown; None for no traces.
        service: runs in this process; None for both sides.

    Raises:
        KeyFileError: the file of API keys is not valid.
        ExecutorError: `decode_gpu` is set and the GPU cannot decode.
        GrpcError: the protocol of gRPC was not compiled.
    """
    if service is None:
        service = Service(settings)
    selector = TraceSelector(settings.traces_per_second)
    spans = None if tracer_provider is None else Spans(tracer_provider, selector)
    memory = BodyMemory(settings.max_buffered_body_bytes)
    grpc = _make_grpc(service, memory, spans)
    app = FastAPI(
        title="resnet-serve",
        version=version("resnet-serve"),
        description="Classifies images with residual networks.",
        # FastAPI's own pages load scripts from another origin; `web_ui` has the page /docs.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(service, grpc, tracer_provider),
        telemetry={
            "tracing": tracer_provider is not None,
            "tracer_provider": tracer_provider,
            "exclude": selector.exclude,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
        },
    )
    app.state.service = service
    app.state.pipeline = service.pipeline
    app.state.lesions = LesionPipeline(service.pipeline)
    app.state.metrics, app.state.one_rendering = service.metrics, asyncio.Lock()
    app.state.grpc = grpc
    app.state.begin_shutdown = _nothing if grpc is None else grpc.begin_shutdown
    problem_details.install(app)
    keys, rates = service.keys, service.rates
    _add_routes(app, settings, service.pipeline, keys, rates)
    # With API keys, the rate limit applies per key, after authentication.
    _add_middlewares(app, settings, service.metrics, rates if keys is None else None, memory, spans)
    return app


def _nothing() -> None:
    """There is no other server."""


def _make_grpc(service: Side, memory: BodyMemory, spans: Spans | None) -> GrpcServer | None:
    """The server of gRPC; None without a port for it."""
    if service.pipeline.settings.grpc_port is None:
        return None
    # grpcio writes a line to standard error for each failed handshake, past the log, unless the variable is set before.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from service.grpc.server import GrpcServer, SharedLimits  # an extra, and never before a fork

    limits = SharedLimits(service.keys, service.rates, memory)
    return GrpcServer(service.pipeline, service.metrics, limits, spans)


def _lifespan(
    service: Side, grpc: GrpcServer | None, tracer_provider: TracerProvider | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Startup and shutdown of the application."""

    async def load() -> None:
        try:
            await service.start()
        except Exception:
            log.exception("the models were not loaded")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(load()), asyncio.create_task(service.watch())]
        lag = LoopLagMonitor(asyncio.get_running_loop(), service.metrics.loop_lag, service.metrics.heartbeat)
        try:
            await service.connect()
            if grpc is not None:
                await grpc.start()
            yield
        finally:
            if grpc is not None:
                await grpc.close()
            await service.close()
            lag.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if tracer_provider is not None:
                await asyncio.to_thread(tracer_provider.shutdown)

    return lifespan


def _add_middlewares(
    app: FastAPI,
    settings: Settings,
    metrics: Metrics,
    rates: Rates | None,
    memory: BodyMemory,
    spans: Spans | None,
) -> None:
    """Add the middlewares; the last one is the outermost."""
    app.add_middleware(RequestLimitsMiddleware, settings=settings, metrics=metrics, rates=rates, memory=memory)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", *_CLIENT_HEADERS],
            expose_headers=["Retry-After", "Cache-Status", "Server-Timing", *_CLIENT_HEADERS],
        )
    app.add_middleware(AccessLogMiddleware, metrics=metrics, spans=spans)


def _add_routes(
    app: FastAPI, settings: Settings, pipeline: Pipeline, keys: ApiKeyStore | None, rates: Rates | None
) -> None:
    """Add all routes, those of `/v1/classify` first."""
    classify_key = None if keys is None else ApiKeyCheck(keys, "classify", rates)
    app.router.routes[:0] = classify.routes(pipeline, classify_key)
    # Before /v1/models/{model}, which also matches NAME:predict.
    compat.add_routes(app, settings.compat, lambda error: _checked(classify_key, error))
    app.include_router(models.router, **_checked(classify_key, Problem))
    app.include_router(rollout.router, **_checked(classify_key, Problem))
    app.include_router(lesion.router, **_checked(classify_key, Problem))
    app.include_router(embeddings.router, **_checked(classify_key, OpenAIError))
    app.include_router(v2.router, **_checked(classify_key, v2.Error))
    if settings.admin:
        admin_key = None if keys is None else ApiKeyCheck(keys, "admin", rates)
        app.include_router(v2.admin, **_checked(admin_key, v2.Error))
        app.include_router(rollout.control, **_checked(admin_key, Problem))
    app.include_router(v2.probes)
    app.include_router(health.router)
    web_ui.install(app, settings)
    openapi.install(app, classify.documentation(classify_key).routes)


def _checked(check: ApiKeyCheck | None, error: type[BaseModel]) -> dict[str, Any]:
    """Options for `include_router`."""
    return {} if check is None else check.options(error)
