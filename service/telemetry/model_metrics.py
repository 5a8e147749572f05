"""The metrics of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.core.errors import REASONS
from service.telemetry.instruments import Count
from service.telemetry.request_context import STAGES, RequestContext

if TYPE_CHECKING:
    from service.telemetry.metrics import Metrics

_MAX_CLASSES = 1000
"""Classes of a model that are counted one by one; Prometheus keeps a time series for each."""


class ModelMetrics:
    """They have their labels resolved: a look-up costs as much as an increment."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._images = metrics.images.labels(model)
        self._confidence = metrics.confidence.labels(model)
        self._batch_sizes = metrics.batch_sizes.labels(model)
        self._batch_seconds = metrics.batch_seconds.labels(model)
        self._wasted_rows = metrics.wasted_rows.labels(model)
        self._devices_lost = metrics.devices_lost.labels(model)
        self._batches_retried = metrics.batches_retried.labels(model)
        self._stages = {stage: metrics.stages.labels(model, stage) for stage in (*STAGES, "total")}
        self._refused = {reason: metrics.refused.labels(model, reason) for reason in REASONS}
        self._requests: dict[int | str, Count] = {}
        self._classes: dict[int, Count] = {}

    def batch(self, size: int, seconds: float, wasted: int) -> None:
        """Count a batch that was computed, with `wasted` rows beyond its images."""
        self._batch_sizes.observe(size)
        self._batch_seconds.observe(seconds)
        if wasted:
            self._wasted_rows.inc(wasted)

    def device_lost(self) -> None:
        """Count a device that was taken out. Called by threads."""
        with self._metrics.thread_lock:
            self._devices_lost.inc()

    def retried(self) -> None:
        """Count a batch that is computed again on another device. Called by threads."""
        with self._metrics.thread_lock:
            self._batches_retried.inc()

    def prediction(self, index: int, label: str, probability: float) -> None:
        """Count an image by its most probable class."""
        index = min(index, _MAX_CLASSES)
        if index not in self._classes:
            label = label if index < _MAX_CLASSES else "others"
            self._classes[index] = self._metrics.predictions.labels(self._model, label)
        self._classes[index].inc()
        self._confidence.observe(probability)

    def request(self, context: RequestContext, status: int | str, seconds: float, failed: bool) -> None:
        """Count a request for this model that was answered."""
        if status not in self._requests:
            self._requests[status] = self._metrics.requests.labels(self._model, str(status))
        self._requests[status].inc()
        if context.refused:
            self._refused[context.refused].inc()
        if failed:  # a refusal takes no time, and would hide how long other responses take
            return
        self._images.inc(context.images)
        for stage, _, stage_seconds in context.stages:
            self._stages[stage].observe(stage_seconds)
        self._stages["total"].observe(seconds)
