"""The metrics of a service whose memory has a limit."""

from __future__ import annotations

from collections.abc import Callable

from service.telemetry.instruments import LoopCounter, LoopGauge

_REQUESTS = ("hit", "waited", "refused")
_EVICTIONS = ("room", "pressure")


class MemoryMetrics:
    """Models that come and go, and the memory of the service.

    Args:
        counter: adds a counter to the metrics of this process.
        gauge: adds a gauge.
    """

    def __init__(self, counter: Callable[..., LoopCounter], gauge: Callable[..., LoopGauge]) -> None:
        requests = counter(
            "resnet_model_lookups",
            "Requests by the state of their model: hit (in memory), waited (was loaded), refused (503).",
            "result",
        )
        evictions = counter(
            "resnet_model_evictions",
            "Models that left memory: to make room for another one, or under the pressure of requests.",
            "reason",
        )
        self.lookups = {result: requests.labels(result) for result in _REQUESTS}
        self.evictions = {reason: evictions.labels(reason) for reason in _EVICTIONS}
        self._limit = gauge("resnet_memory_limit_bytes", "Limit of the resident memory of all processes.")
        self._resident = gauge("resnet_memory_resident_bytes", "Resident memory of all processes.")
        self._loaded = gauge("resnet_models_loaded", "Models in memory.")

    def watch(self, limit: int, resident: Callable[[], float], loaded: Callable[[], float]) -> None:
        """Read the limit, the resident memory in bytes, and the number of loaded models at each scrape."""
        self._limit.watch(lambda: limit)
        self._resident.watch(resident)
        self._loaded.watch(loaded)
