"""The two sides of the service in one process, connected as a worker and the engine process are.

`serve` uses it if the environment variable RESNET_TEST_SPLIT is 1: then the tests of the HTTP interface show that a
backend in another process answers as one in the same process.
"""

from __future__ import annotations

import os

from service.app import make_pipeline, make_rates
from service.core.api_keys import ApiKeyStore
from service.core.rate_limit import Rates
from service.core.settings import Settings
from service.registry.registry import Registry
from service.remote import address
from service.remote.client import RemoteBackend
from service.remote.server import BackendServer
from service.telemetry.metrics import Metrics

VARIABLE = "RESNET_TEST_SPLIT"


def is_wanted() -> bool:
    """Whether the tests run with the two sides apart."""
    return os.environ.get(VARIABLE) == "1"


class SplitService:
    """As `Service`, but the pipeline reaches the registry through a socket and an arena.

    Args:
        settings: settings of both sides.
    """

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self.registry = Registry(settings, self.metrics)
        self._listening = address.listen()
        self._server = BackendServer(self.registry, self._listening, make_rates(settings))
        self.registry.observe(self._server.catalog_changed)
        self._backend = RemoteBackend(self._listening.getsockname())
        self.rates: Rates | None = self._backend if settings.rate_limit else None
        self.keys = None if settings.api_keys is None else ApiKeyStore(settings.api_keys)
        self.pipeline = make_pipeline(settings, self._backend, self.metrics)

    async def connect(self) -> None:
        """Nothing: `start` connects."""

    async def start(self) -> None:
        """Connect both sides, and load the models."""
        self._server.start()
        self._backend.start()
        await self._backend.connected()
        await self.registry.start()
        await self._backend.statuses()  # answered once the worker has taken over what is served

    async def watch(self) -> None:
        """Apply changes of the repository until `close`."""
        await self.registry.watch()

    async def close(self) -> None:
        """Finish the requests in flight, then free everything."""
        await self.registry.close()
        await self._backend.close()
        self._server.close()
        self._listening.close()
        self.pipeline.close()
