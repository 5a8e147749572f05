"""CPU time of the event loop for a request with one small image, layer by layer.

    python -m benchmarks.layers [REPOSITORY]

The images are the golden ones of the repository's first model, as PNG. The engine answers at once, and requests do not
come from a socket, so one thread does all the work. Its CPU time is counted, in the fastest of several turns.
"""

from __future__ import annotations

import asyncio
import gc
import io
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from fastapi import FastAPI
from PIL import Image
from rich.console import Console
from rich.table import Table
from starlette.types import Message, Scope

from models.artifact import golden
from models.artifact.manifest import GOLDEN_FILE
from service.app import Service, create_app
from service.core.settings import Settings, shipped_repository
from service.decoding.decoder import decode
from service.http.connection_state import connection_state
from service.http.v1.classify import ClassifyEndpoint
from service.messages.inference import InferenceResult

REQUESTS, CONCURRENT, TURNS = 2000, 16, 7

Call = Callable[[bytes], Awaitable[object]]


def make_scope(app: FastAPI, data: bytes) -> Scope:
    """The scope of a request, as the server passes it to the application."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/classify",
        "raw_path": b"/v1/classify",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"image/png"),
            (b"content-length", str(len(data)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "path_params": {},
        "state": {},
        "app": app,
    }
    connection_state(scope).body_complete = True
    return scope


async def send(message: Message) -> None:
    """Drop the response."""


def make_receive(data: bytes) -> Callable[[], Awaitable[Message]]:
    """The function that receives a body."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


def layers(app: FastAPI, service: Service) -> dict[str, Call]:
    """Functions that each do the work of the one before, and more."""
    registry: Any = service.registry
    pipeline = service.pipeline
    model = registry.catalog.find()
    endpoint = ClassifyEndpoint(pipeline, None)
    answer = np.full((1, len(model.labels)), 0.1, np.float32)
    result = InferenceResult({"probabilities": answer}, 0.001, 0.001, 0.001, 1)

    async def submit(*arguments: object) -> InferenceResult:
        await asyncio.sleep(0)
        return result

    registry.submit = submit

    async def decode_file(data: bytes) -> None:
        decode(data, model.preprocess, "exact")

    async def classify(data: bytes) -> None:
        await pipeline.classify(model, [data], 5, 10.0)

    async def call_route(data: bytes) -> None:
        await endpoint(make_scope(app, data), make_receive(data), send)

    async def call_application(data: bytes) -> None:
        await app(make_scope(app, data), make_receive(data), send)

    return {
        "decoding": decode_file,
        "pipeline: top-k, metrics, result": classify,
        "route: body, admission, JSON": call_route,
        "application: middlewares, routing": call_application,
    }


async def measure(call: Call, files: list[bytes]) -> float:
    """Microseconds of CPU time per request."""

    async def client(number: int) -> None:
        for index in range(number, REQUESTS, CONCURRENT):
            await call(files[index % len(files)])

    taken = []
    for _ in range(TURNS):
        started = time.thread_time()
        await asyncio.gather(*(client(number) for number in range(CONCURRENT)))
        taken.append((time.thread_time() - started) / REQUESTS * 1e6)
    return min(taken)


async def measure_all(repository: Path) -> dict[str, float]:
    """Microseconds of CPU time per request, by layer with the layers before it."""
    app = create_app(Settings(repository=repository, executor="simulated:0", max_batch=1))
    service: Service = app.state.service
    files = read_files(repository)
    await service.start()
    try:
        gc.collect()
        gc.freeze()  # as in the service
        return {name: await measure(call, files) for name, call in layers(app, service).items()}
    finally:
        await service.close()


def read_files(repository: Path) -> list[bytes]:
    """The golden images of the repository's first model, as PNG files."""
    images, _ = golden.read(min(repository.glob(f"*/*/{GOLDEN_FILE}")))
    files = []
    for pixels in images:
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def main(repository: Annotated[Path | None, typer.Argument(help="Default: the shipped repository.")] = None) -> None:
    """Print the microseconds per request of each layer."""
    table = Table("layer", "µs", "with the layers before")
    before = 0.0
    for name, microseconds in asyncio.run(measure_all(repository or shipped_repository())).items():
        table.add_row(name, f"{microseconds - before:.0f}", f"{microseconds:.0f}")
        before = microseconds
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
