"""What several modules share: photographs, a small model in a repository, and the service over it, in this process."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal
from PIL import Image
from starlette.types import ASGIApp

from export.build import build
from models.artifact import manifest
from models.artifact.manifest import Precision
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.runtime.engine_cache import ENVIRONMENT
from models.training.checkpoint import Checkpoint
from service.app import create_app
from service.core.settings import Settings
from service.executors import Runtime
from service.executors.base import Source
from service.inference.pipeline import Pipeline
from tests.support.networks import make_checkpoint

# The same examples on every run, however slow the machine.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")

TIMEOUT = 60
"""Seconds until a test that would hang fails instead."""


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An engine cache of the tests' own: what somebody has tuned on this machine must not change what they see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photographs() -> list[tuple[str, bytes]]:
    """(file name, content) of the photographs that ship with the project."""
    folder = resources.files("export") / "photographs"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".jpg")), key=lambda file: file.name)
    assert len(files) >= 6
    return [(file.name, file.read_bytes()) for file in files]


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Five classes of 32 x 32 colour images, cut from a shorter side of 36 pixels."""
    return make_checkpoint("tiny", classes=5)


@pytest.fixture(scope="session")
def tiny_repository(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with version 1 of the model `tiny`. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint.save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", "tiny")
    return folder / "repository"


@pytest.fixture(scope="session")
def full_repository(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_repository`, in every precision."""
    folder = tmp_path_factory.mktemp("full")
    checkpoint.save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", "tiny", float16=True, int8=True)
    return folder / "repository"


Golden = tuple[UInt8Array, Float32Array]


@pytest.fixture(scope="session")
def golden(full_repository: Path) -> Golden:
    """Sixteen images as `tiny` takes them, and the eager model's logits for them."""
    with np.load(full_repository / "tiny" / "1" / "golden.npz") as file:
        return file["images"], file["logits"]


def source_of(version: Path, runtime: Runtime, precision: Precision = "float32", cache: Path = Path("no")) -> Source:
    """What an executor of a runtime loads of a version, with one thread."""
    described = manifest.read(version)
    return Source(version, described, runtime.choose(described, precision), precision, 1, runtime.argument, cache)


def cut(data: bytes) -> UInt8Array:
    """What `tiny` takes of an image file, uint8 [32, 32, 3], in Pillow's own operations."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    shorter = min(image.size)
    image = image.resize((36 * image.width // shorter, 36 * image.height // shorter), Image.Resampling.BILINEAR)
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    return np.asarray(image.crop((left, top, left + 32, top + 32)))


Eager = Callable[[bytes], Float32Array]


@pytest.fixture(scope="session")
def eager(checkpoint: Checkpoint) -> Eager:
    """Probabilities of an image file, float32 [5], from the PyTorch model: nothing here is of the service."""
    model = checkpoint.model()

    @cache
    def probabilities(data: bytes) -> Float32Array:
        pixels = torch.from_numpy(cut(data).astype(np.float32) / 255)
        normalised = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on a busy machine threads that wait for each other take many times as long
        try:
            with torch.inference_mode():
                answer: Float32Array = model(normalised.permute(2, 0, 1)[None]).softmax(1)[0].numpy()
        finally:
            torch.set_num_threads(threads)
        return answer

    return probabilities


@dataclass(frozen=True)
class Client:
    """Sends requests to an application that runs on an event loop in a thread of its own."""

    portal: BlockingPortal
    app: ASGIApp
    http: httpx.AsyncClient
    pipeline: Pipeline
    loaded: Event
    """Set once models have been loaded, or have failed to."""

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
    app = create_app(settings, **options)
    pipeline: Any = app.state.pipeline
    load, loaded = pipeline.start, Event()

    async def start() -> None:
        if hold is not None:
            assert await asyncio.to_thread(hold.wait, TIMEOUT)
        try:
            await load()
        finally:
            loaded.set()

    pipeline.start = start
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(httpx.AsyncClient(transport=transport, base_url="http://service")) as http,
    ):
        if hold is None:
            assert loaded.wait(TIMEOUT)
        try:
            yield Client(portal, app, http, pipeline, loaded)
        finally:
            if hold is not None:
                hold.set()


@pytest.fixture(scope="session")
def client(tiny_repository: Path) -> Iterator[Client]:
    """The service over `tiny`, ready, with one executor: a test can hold it."""
    with serve(Settings(repository=tiny_repository, copies=1)) as client:
        yield client
