"""The application: startup, run, shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI

from service.limits import Limits
from service.observe import Observe
from service.pipeline import Pipeline
from service.routes import classify, health, problems
from service.settings import Settings
from service.tracing import Spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def create_app(settings: Settings, tracer_provider: TracerProvider | None = None) -> FastAPI:
    """The service as an ASGI application. Models are loaded in the background once it has started.

    Args:
        settings: all of them.
        tracer_provider: where spans go, if anywhere; flushed at the end.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(pipeline.start())
        try:
            yield
        finally:
            await loading
            await pipeline.close()
            if tracer_provider is not None:
                await asyncio.to_thread(tracer_provider.shutdown)

    pipeline = Pipeline(settings)
    app = FastAPI(
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
    app.state.pipeline = pipeline
    problems.install(app)
    app.add_middleware(Limits, settings=settings, metrics=pipeline.metrics)
    app.add_middleware(Observe, metrics=pipeline.metrics, spans=Spans(tracer_provider) if tracer_provider else None)
    app.include_router(classify.router)
    app.include_router(health.router)
    return app
