"""The metrics of a service whose memory has a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.telemetry.metrics import Metrics

_REQUESTS = ("hit", "waited", "refused")
_EVICTIONS = ("room", "pressure")


class MemoryMetrics:
    """Models that come and go, and the memory of the service.

    Args:
        metrics: all metrics of this process.
    """

    def __init__(self, metrics: Metrics) -> None:
        requests = metrics.counter(
            "resnet_model_lookups",
            "Requests by the state of their model: hit (in memory), waited (was loaded), refused (503).",
            "result",
        )
        evictions = metrics.counter(
            "resnet_model_evictions",
            "Models that left memory: to make room for another one, or under the pressure of requests.",
            "reason",
        )
        self.lookups = {result: requests.labels(result) for result in _REQUESTS}
        self.evictions = {reason: evictions.labels(reason) for reason in _EVICTIONS}
        self._limit = metrics.gauge("resnet_memory_limit_bytes", "Limit of the resident memory of all processes.")
        self._resident = metrics.gauge("resnet_memory_resident_bytes", "Resident memory of all processes.")
        self._loaded = metrics.gauge("resnet_models_loaded", "Models in memory.")

    def watch(self, limit: int, resident: Callable[[], float], loaded: Callable[[], float]) -> None:
        """Read the limit, the resident memory in bytes, and the number of loaded models at each scrape."""
        self._limit.watch(lambda: limit)
        self._resident.watch(resident)
        self._loaded.watch(loaded)
