"""A middleware that is added to the application sees every route."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.core.settings import Settings
from tests.support.asgi import Exchange


class AddedMiddleware:
    """Sets a header of every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-added"] = "yes"
            await send(message)

        await self._app(scope, receive, add_header)


@pytest.fixture
def app(tiny_repository: Path) -> FastAPI:
    app = create_app(Settings(repository=tiny_repository))
    app.add_middleware(AddedMiddleware)
    return app


def test_every_path_passes_an_added_middleware(app: FastAPI) -> None:
    paths = [*app.openapi()["paths"], "/", "/page/app.js", "/docs", "/studies", "/examples", "/missing"]
    assert len(paths) > 25
    for path in paths:
        exchange = Exchange([b""], path=path.replace("{version}", "1").replace("{model}", "tiny"))
        asyncio.run(exchange.run(app))
        assert exchange.answer_headers["x-added"] == "yes", path
        assert exchange.answer_headers["x-request-id"], path


def test_classify_routes_come_first(app: FastAPI) -> None:
    paths = [getattr(route, "path", "") for route in app.routes[:3]]
    assert all(path.endswith("/classify") for path in paths)
