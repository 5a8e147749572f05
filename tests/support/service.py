"""The service over ASGI, in this process, from startup to shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.types import ASGIApp

from service.app import Service, Side, create_app
from service.core.priority import Priority
from service.core.settings import Settings
from service.engine.engine import Engine
from service.inference.leases import Lease
from service.inference.pipeline import Pipeline
from service.registry.registry import Registry
from tests.support import split

TIMEOUT = 60
"""Seconds after which a test that would hang fails."""


@dataclass(frozen=True)
class Client:
    """Sends requests to an application that runs on an event loop in a thread of its own."""

    portal: BlockingPortal
    app: ASGIApp
    http: httpx.AsyncClient
    service: Service
    loaded: Event
    """Set once models have been loaded, or have failed to."""

    @property
    def pipeline(self) -> Pipeline:
        return self.service.pipeline

    @property
    def registry(self) -> Registry:
        return self.service.registry

    def engine(self, name: str = "tiny") -> Engine:
        """The engine of a model's current version."""
        return self.registry._by_key(self.registry.catalog.find(name).key).engine

    def images_in_flight(self, name: str = "tiny") -> int:
        """Images of a model that were admitted and are not answered."""
        return self.pipeline.admission.images()[name]

    def admit(self, images: int, priority: Priority = Priority.interactive) -> Lease:
        """Have images of `tiny` in flight while the context is entered."""
        return self.pipeline.admit("tiny", None, images, 1000.0, priority)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.portal.call(partial(self.http.request, method, path, **options))

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def post_together(self, path: str, requests: Sequence[dict[str, Any]]) -> list[httpx.Response]:
        """Answers to requests that are all sent before the first is answered, in their order."""

        async def send() -> list[httpx.Response]:
            return await asyncio.gather(*(self.http.post(path, **options) for options in requests))

        return self.portal.call(send)


@contextmanager
def serve(settings: Settings, hold: Event | None = None, **options: Any) -> Iterator[Client]:
    """The service from startup to shutdown, over ASGI without a socket.

    Gives the client once models are loaded; with `hold` at once, and loading begins when that is set. `options` are
    those of `create_app`.
    """
    if split.is_wanted():
        side: Side = split.SplitService(settings)
        options.setdefault("service", side)
    app = create_app(settings, **options)
    service: Any = app.state.service
    load, loaded = service.start, Event()

    async def start() -> None:
        if hold is not None:
            assert await asyncio.to_thread(hold.wait, TIMEOUT)
        try:
            await load()
        finally:
            loaded.set()

    service.start = start
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(httpx.AsyncClient(transport=transport, base_url="http://service")) as http,
    ):
        if hold is None:
            assert loaded.wait(TIMEOUT)
        try:
            yield Client(portal, app, http, service, loaded)
        finally:
            if hold is not None:
                hold.set()
