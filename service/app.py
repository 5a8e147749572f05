"""The application: startup, run, shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.auth import KeyRing, guard
from service.pipeline import Pipeline
from service.routes import classify, health, page, problems, v2
from service.routes.body import BodyLimit
from service.schemas import Problem
from service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. Models are loaded in the background once it has started."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            await pipeline.close()
            await following

    async def follow() -> None:
        await pipeline.start()
        await pipeline.registry.watch()

    pipeline = Pipeline(settings)
    app = FastAPI(
        title="resnet-serve",
        version=version("resnet-serve"),
        description="Classifies images with residual networks.",
        lifespan=lifespan,
    )
    app.state.pipeline = pipeline
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", v2.LENGTH_HEADER],
            expose_headers=["Retry-After", v2.LENGTH_HEADER],
        )
    ring = None if settings.api_keys is None else KeyRing(settings.api_keys)
    app.include_router(classify.router, **guard(ring, "classify", Problem))
    app.include_router(v2.router, **guard(ring, "classify", v2.Error))
    if settings.admin:
        app.include_router(v2.admin, **guard(ring, "admin", v2.Error))
    app.include_router(v2.probes)
    app.include_router(health.router)
    page.install(app, settings)
    return app
