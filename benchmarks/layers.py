"""Where the event loop's time goes in a request with one small image: layer by layer, from the inside.

    python benchmarks/layers.py [REPOSITORY]
    PYTHONPATH=../before python benchmarks/layers.py [REPOSITORY]     # the service of another checkout

The images are the golden ones of the repository's first model, as PNG. The engine answers at once, and nothing comes
from a socket, so that one thread does everything: its processor time is counted, that of the fastest of some turns.
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
from PIL import Image
from rich.console import Console
from rich.table import Table
from starlette.requests import Request
from starlette.types import Message, Scope

from models.artifact import golden
from models.artifact.manifest import GOLDEN_FILE
from service.app import create_app
from service.core.settings import Settings, shipped_repository
from service.decoding.decoder import decode
from service.engine.engine import Result
from service.http.v1.classify import classify

REQUESTS, AT_ONCE, TURNS = 2000, 16, 7

Ask = Callable[[bytes], Awaitable[object]]


def scope_of(app: Any, data: bytes) -> Scope:
    """A request as the service's connection hands it over."""
    return {
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
        # Literals, as the service of another checkout may have no constant for BODY_COMPLETE.
        "extensions": {"resnet.hang_up": [], "resnet.arrived": {}},
        "state": {},
        "app": app,
    }


async def send(message: Message) -> None:
    """Nobody reads the answer."""


def layers(app: Any) -> dict[str, Ask]:
    """Functions that each do what the one before does, and more."""
    pipeline = app.state.pipeline
    (model,) = pipeline.registry.current.values()
    answer = np.full((1, len(model.manifest.labels)), 0.1, np.float32)
    result = Result({"probabilities": answer}, 0.001, 0.001, 0.001, 1)

    async def submit(*arguments: object) -> Result:
        await asyncio.sleep(0)
        return result

    model.engine.submit = submit

    async def decoding(data: bytes) -> None:
        decode(data, model.manifest.preprocess, "exact")

    async def classifying(data: bytes) -> None:
        await pipeline.classify(model, [data], 5, 10.0)

    async def answering(data: bytes) -> None:
        scope, receive = scope_of(app, data), receiving(data)
        response = await classify(Request(scope, receive, send))
        await response(scope, receive, send)

    async def application(data: bytes) -> None:
        await app(scope_of(app, data), receiving(data), send)

    return {
        "decoding": decoding,
        "pipeline: best classes, metrics, result": classifying,
        "route: body, admission, JSON": answering,
        "application: middlewares, routing": application,
    }


def receiving(data: bytes) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


async def measure(ask: Ask, files: list[bytes]) -> float:
    """Microseconds of a request."""

    async def client(number: int) -> None:
        for index in range(number, REQUESTS, AT_ONCE):
            await ask(files[index % len(files)])

    taken = []
    for _ in range(TURNS):
        started = time.thread_time()
        await asyncio.gather(*(client(number) for number in range(AT_ONCE)))
        taken.append((time.thread_time() - started) / REQUESTS * 1e6)
    return min(taken)


async def measure_all(repository: Path) -> dict[str, float]:
    settings = Settings(repository=repository, executor="simulated:0", max_batch=1)
    app = create_app(settings)
    files, pipeline = files_of(repository), app.state.pipeline
    await pipeline.start()
    try:
        gc.collect()
        gc.freeze()  # as the service does
        return {name: await measure(ask, files) for name, ask in layers(app).items()}
    finally:
        await pipeline.close()


def files_of(repository: Path) -> list[bytes]:
    """The golden images of the repository's first model."""
    images, _ = golden.read(min(repository.glob(f"*/*/{GOLDEN_FILE}")))
    files = []
    for pixels in images:
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def main(repository: Annotated[Path | None, typer.Argument(help="Default: the shipped one.")] = None) -> None:
    """Print the microseconds of each layer."""
    table = Table("layer", "µs", "with those before")
    before = 0.0
    for name, microseconds in asyncio.run(measure_all(repository or shipped_repository())).items():
        table.add_row(name, f"{microseconds - before:.0f}", f"{microseconds:.0f}")
        before = microseconds
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
