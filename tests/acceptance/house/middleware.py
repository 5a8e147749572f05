"""Line 6: one path for every request."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import httpx
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from starlette.datastructures import MutableHeaders
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks import compare
from service.app import create_app
from service.core.settings import Settings
from tests.acceptance.house.checkout import ROOT
from tests.acceptance.house.speed import Requirement, measure
from tests.support.api_keys import KEYS, write_keys
from tests.support.api_keys import ROOT as KEY

MARK = "X-Planted"
MIN_RATIO = 0.90
MODEL = "fashion-mnist-resnet20"
IMAGE = ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png"
COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

received = 0

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global received
        received += len(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(b"")

    def do_GET(self):
        self.reply(str(received).encode())

    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""Accepts traces, and tells how many bytes it got."""


class Planted:
    """A middleware as a user adds it: sets a header of every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[MARK] = "yes"
            await send(message)

        await self._app(scope, receive, marked)


def check() -> tuple[bool, str]:
    """A planted middleware sees every route; keys and tracing change neither the route nor, by much, the speed."""
    with TemporaryDirectory(prefix="house-") as folder:
        keys = Path(folder) / "keys.toml"
        write_keys(keys, KEYS)
        passed, past = asyncio.run(_requests_through_middleware(Settings()))
        more = asyncio.run(_requests_through_middleware(Settings(admin=True, api_keys=keys)))
        passed, past = passed + more[0], past + more[1]
        plain, guarded = create_app(Settings()), create_app(Settings(api_keys=keys), TracerProvider())
        same = _classify_route(plain) == _classify_route(guarded)
        with _collector() as address:
            with_both = compare.Side(
                ROOT, ("--api-keys", str(keys), "--tracing"), {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
            )
            requests = compare.make_requests("resnet20", [f"X-API-Key: {KEY}"])
            compared = [
                measure(compare.Side(ROOT), with_both, Requirement("resnet20", connections, MIN_RATIO), requests)
                for connections in (32, 1)
            ]
            traced = int(urlopen(address).read())
    return not past and same and traced > 0 and all(each.holds for each in compared), (
        f"{len(passed)} requests pass the middleware, past it: {past or 'none'}; same route with keys and tracing: "
        f"{same}; ratios with both: {', '.join(map(str, compared))}; "
        f"{traced / 1e6:.1f} MB of traces"
    )


async def _requests_through_middleware(settings: Settings) -> tuple[list[str], list[str]]:
    """A request to every route of the service; those that the middleware saw, and those that it did not."""
    app = create_app(settings)
    app.add_middleware(Planted)
    passed: list[str] = []
    past: list[str] = []
    headers = {"Content-Type": "image/png", "X-API-Key": KEY}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        async with asyncio.timeout(60):
            while not (await client.get("/readyz")).is_success:
                await asyncio.sleep(0.05)
        for method, path in [("GET", "/absent"), ("DELETE", "/v1/classify"), *_targets(app)]:
            content = IMAGE.read_bytes() if method == "POST" else None
            response = await client.request(method, path, content=content, headers=headers)
            (passed if MARK in response.headers else past).append(f"{method} {path}: {response.status_code}")
    print(*(f"  {line}" for line in passed), sep="\n")
    return passed, past


def _targets(app: FastAPI) -> list[tuple[str, str]]:
    """The method and an example path of each route. Models are unloaded last."""
    described = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    found = {(method, _example(path)) for method, path in [*described, *_routes(app.routes)] if method != "HEAD"}
    return sorted(found, key=lambda target: (target[1].endswith("unload"), target))


def _routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The method and the path of each route, those that are not in the OpenAPI document included."""
    for route in routes:
        if isinstance(route, Mount):
            yield from list(_routes(route.routes, prefix + route.path)) or [("GET", f"{prefix}{route.path}/app.js")]
        elif isinstance(route, Route):
            yield from ((method, prefix + route.path) for method in route.methods or {"GET"})
        else:  # a router that FastAPI includes
            included: Any = route
            yield from _routes(included.original_router.routes, prefix + included.include_context.prefix)


def _example(path: str) -> str:
    """A path with values for its parameters."""
    return re.sub(r"\{[^}]*\}", MODEL, re.sub(r"\{\w*version\w*\}", "1", path))


def _classify_route(app: FastAPI) -> tuple[object, ...]:
    """The identity of the route that a request to /v1/classify takes."""
    scope = {"type": "http", "method": "POST", "path": "/v1/classify", "root_path": "", "headers": []}
    route = next(route for route in app.routes if route.matches(scope)[0] is Match.FULL)
    return type(route), getattr(route, "path", None), getattr(getattr(route, "endpoint", None), "__qualname__", None)


@contextmanager
def _collector() -> Iterator[str]:
    """The address of a process that accepts traces."""
    process = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait(30)
