"""Examples of the client. They need a running service, such as `make serve`, and run in the folder of the project:

    python clients/python/examples.py

RESNET_SERVE_URL names a service at another address than http://localhost:8000.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_serve_client import ApiError, AsyncClient, Client

EXAMPLES = Path("models/pretrained/examples")


def one_image(client: Client) -> None:
    """One image: a path, the bytes of a file, an open file, a Pillow image or an array."""
    path = EXAMPLES / "trouser.png"
    best = client.classify(path, top_k=1).best
    print(f"one image: {best.label} with a probability of {best.probability:.2f}")
    with Image.open(path) as image:
        print("Pillow image:", client.classify(image).best.label)
        print("array:", client.classify(np.asarray(image)).best.label)
    print("bytes:", client.classify(path.read_bytes(), timeout=5, priority="bulk").best.label)


def several_images(client: Client) -> None:
    """A few images in one request. An image that cannot be used has its error in its place."""
    for result in client.classify_batch([EXAMPLES / "pullover.png", EXAMPLES / "missing.png", b"not an image"]):
        print("several images:", result.best.label if result.error is None else type(result.error).__name__)


def embedding_and_heat_map(client: Client) -> None:
    """The pooled features of an image, and a picture of the pixels that support its class."""
    print("embedding:", len(client.embed(EXAMPLES / "pullover.png")), "features")
    result = client.classify(EXAMPLES / "pullover.png", top_k=1, cam="picture")
    print("heat map:", (result.best.cam_png or b"")[1:4].decode())


def many_images(client: Client) -> None:
    """Any number of images, in batches, in their order; `progress=True` shows a bar."""

    def read() -> Iterator[Path]:
        for _ in range(20):
            yield from sorted(EXAMPLES.glob("*.png"))

    results = client.classify_many(read(), batch=8, concurrency=2, top_k=1)
    labels = [result.best.label for result in results]
    print("many images:", len(labels), "images, first", labels[0])


async def asynchronous() -> None:
    """The same with asyncio; the images may come from an asynchronous generator."""

    async def read() -> AsyncIterator[bytes]:
        for path in sorted(EXAMPLES.glob("*.png")):
            yield await asyncio.to_thread(path.read_bytes)

    async with AsyncClient() as client:
        async for result in client.classify_many(read()):
            print("asynchronous:", result.best.label)


def errors(client: Client) -> None:
    """Errors of the service say what to do."""
    try:
        client.classify(EXAMPLES / "trouser.png", model="no-such-model")
    except ApiError as error:
        print("error:", error.status, error.detail)


def models(client: Client) -> None:
    """The models that are served."""
    for model in client.models():
        print(f"model: {model.name} version {model.version}, {len(model.labels)} classes")
    print("ready:", client.ready().ready)


if __name__ == "__main__":
    with Client() as client:
        one_image(client)
        several_images(client)
        embedding_and_heat_map(client)
        many_images(client)
        errors(client)
        models(client)
    asyncio.run(asynchronous())
