"""The model of a request that is not in memory: the request waits until it is loaded."""

from __future__ import annotations

import time

from service.core.errors import ModelNotLoaded
from service.messages.backend import Backend
from service.telemetry import request_context
from service.telemetry.memory_metrics import MemoryMetrics

_WAIT_SHARE = 0.9
"""Part of the time limit in which a request waits for its model. The rest is for its images."""


class ModelLookup:
    """Has models loaded, and counts the requests by the state of their model.

    Args:
        backend: loads models.
        metrics: counts; None without a limit of memory: all models are in memory then.
    """

    def __init__(self, backend: Backend, metrics: MemoryMetrics | None) -> None:
        self._backend = backend
        self._counts = None if metrics is None else metrics.lookups

    async def ensure_loaded(self, name: str | None, version: str | None, seconds: float, first: bool = True) -> float:
        """Wait until the model of a request is in memory. A name that no model has is left to the caller.

        The model may leave again in another turn of the event loop: lease it before that, and call again if the lease
        comes later.

        Args:
            name: name of the model; None for the default model.
            version: version of the model; None for the current one.
            seconds: time limit of the request.
            first: whether the request looks for its model for the first time.

        Returns:
            The seconds that are left of the time limit.

        Raises:
            ModelNotLoaded: the model cannot be loaded in time.
            Unavailable: the model cannot be loaded.
        """
        if self._counts is None:
            return seconds
        if self._backend.catalog.not_loaded(name, version) is None:
            if first:
                self._counts["hit"].inc()
            return seconds
        result, started = "refused", time.monotonic()
        try:
            await self._wait(name, version, started + _WAIT_SHARE * seconds)
            result = "waited"
        finally:
            self._counts[result].inc()
            request_context.current().load_seconds += time.monotonic() - started
        return started + seconds - time.monotonic()

    async def _wait(self, name: str | None, version: str | None, end: float) -> None:
        while (needed := self._backend.catalog.not_loaded(name, version)) is not None:
            left = end - time.monotonic()
            if left <= 0:
                raise ModelNotLoaded(f"model {needed} was loaded, and has left memory again", 1)
            await self._backend.demand(needed, left)
