"""The application: startup, run, shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.pipeline import Pipeline
from service.routes import classify, health, problems
from service.routes.body import BodyLimit
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
    app.include_router(classify.router)
    app.include_router(health.router)
    return app
