"""A worker and the engine process in one process: a registry behind a server, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from service.core.settings.offline import OfflineSettings
from service.messages.decoding import GpuDecoder
from service.registry.registry import Registry
from service.remote import address
from service.remote.client import RemoteBackend
from service.remote.server import BackendServer
from service.telemetry.metrics import Metrics

TIMEOUT = 30.0


class Pair:
    """A registry behind a server, and clients of it.

    Args:
        repository: the models.
        gpu: decodes files; None for none.
        settings: of the registry.
    """

    def __init__(self, repository: Path, gpu: GpuDecoder | None = None, **settings: object) -> None:
        self.listening = address.listen()
        self.registry = Registry(OfflineSettings(repository=repository, watch="off", **settings), Metrics())  # type: ignore[arg-type]
        self.server = BackendServer(self.registry, self.listening, gpu=gpu)
        self.registry.observe(self.server.catalog_changed)
        self.changed = asyncio.Event()
        self.registry.observe(self.changed.set)
        self.clients: list[RemoteBackend] = []

    async def client(self) -> RemoteBackend:
        """A new client, which knows the catalog."""
        client = RemoteBackend(self.listening.getsockname())
        client.start()
        self.clients.append(client)
        await asyncio.wait_for(client.connected(), TIMEOUT)
        return client


@asynccontextmanager
async def pair(repository: Path, gpu: GpuDecoder | None = None, **settings: object) -> AsyncIterator[Pair]:
    """Both sides, from start to end."""
    both = Pair(repository, gpu, **settings)
    both.server.start()
    await both.registry.start()
    try:
        yield both
    finally:
        for client in both.clients:
            await client.close()
        both.server.close()
        await both.registry.close()
        both.listening.close()


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a test on an event loop."""
    asyncio.run(asyncio.wait_for(test(), TIMEOUT))
