"""What Prometheus reads at /metrics.

Labels are bounded: names of loaded models, their classes, statuses, and the stages and reasons of fixed lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.core.errors import REASONS
from service.telemetry.instruments import Count, Counter, Histogram
from service.telemetry.request_context import STAGES, RequestContext

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_MAX_CLASSES = 1000
"""Classes of a model that are counted one by one; Prometheus keeps a time series for each."""


class Metrics:
    """All instruments of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        # Kept by the event loop, which also answers Prometheus.
        self.requests = self._counter("resnet_requests", "Requests answered, by status.", "model", "status")
        self.refused = self._counter("resnet_requests_refused", "Requests refused, by reason.", "model", "reason")
        self.images = self._counter("resnet_images", "Images answered with predictions.", "model")
        self.predictions = self._counter(
            "resnet_predictions", "Images by the likeliest class; a change shows drift.", "model", "label"
        )
        self.confidence = self._histogram(
            "resnet_confidence", "Probability of the likeliest class.", _CONFIDENCE, "model"
        )
        self.stages = self._histogram(
            "resnet_stage_seconds", f"Time of a request in: {', '.join(STAGES)}, total.", _SECONDS, "model", "stage"
        )
        self.batch_sizes = self._histogram("resnet_batch_size", "Images in a batch.", _IMAGES, "model")
        self.batch_seconds = self._histogram(
            "resnet_batch_seconds", "Time of a batch in the executor.", _SECONDS, "model"
        )
        self.wasted_rows = self._counter(
            "resnet_wasted_rows", "Rows that were computed beyond the images of a batch, to fill its bucket.", "model"
        )
        # Kept by other threads.
        self.devices_lost = prometheus_client.Counter(
            "resnet_devices_lost", "Devices that failed and were taken out.", ["model"], registry=self.registry
        )
        self.batches_retried = prometheus_client.Counter(
            "resnet_batches_retried",
            "Batches that were tried again on another device.",
            ["model"],
            registry=self.registry,
        )
        self._loads = prometheus_client.Counter(
            "resnet_model_loads", "Attempts to load a model, by outcome.", ["outcome"], registry=self.registry
        )
        self._load_seconds = prometheus_client.Histogram(
            "resnet_model_load_seconds", "Time to load a model.", buckets=_LOAD_SECONDS, registry=self.registry
        )
        # Read when Prometheus asks.
        self._devices = self._gauge("resnet_devices", "Devices that compute.", "model")
        self._waiting = self._gauge("resnet_queue_images", "Images that wait for a batch.", "model")
        self._in_flight = self._gauge("resnet_requests_in_flight", "Requests accepted and not yet answered.")
        self._models: dict[str, ModelMetrics] = {}
        # Begin at 0: what is first seen as 1 has not increased, and no alert would tell of it.
        for reason in REASONS:
            self.refused.labels("", reason)
        for outcome in ("loaded", "failed"):
            self._loads.labels(outcome)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(name, text, labels)
        self.registry.register(counter)
        return counter

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> Histogram:
        histogram = Histogram(name, text, bounds, labels)
        self.registry.register(histogram)
        return histogram

    def model(self, name: str) -> ModelMetrics:
        """The instruments of one loaded model."""
        if name not in self._models:
            self._models[name] = ModelMetrics(self, name)
        return self._models[name]

    def request(self, record: RequestContext, status: int, seconds: float) -> None:
        """A request was answered; the model's name is empty where none was found."""
        if record.model:
            self.model(record.model).request(record, status, seconds)
            return
        self.requests.labels("", str(status)).inc()
        if record.refused:
            self.refused.labels("", record.refused).inc()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """A model is being loaded; counts as failed where it raises."""
        started = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "loaded"
        finally:
            self._loads.labels(outcome).inc()
            self._load_seconds.observe(time.monotonic() - started)

    def watch_requests(self, in_flight: Callable[[], float]) -> None:
        """Read the number of requests that are not answered yet whenever Prometheus asks."""
        self._in_flight.set_function(in_flight)

    def watch_queue(self, model: str, waiting: Callable[[], float]) -> None:
        """Read the length of a model's queue whenever Prometheus asks."""
        self._waiting.labels(model).set_function(waiting)

    def watch_admitted(self, images: Callable[[], Mapping[str, int]]) -> None:
        """Read the number of accepted images per model whenever Prometheus asks."""
        self.registry.register(_ImagesInFlight(images))

    def watch_devices(self, model: str, devices: Callable[[], float]) -> None:
        """Read the number of a model's devices whenever Prometheus asks."""
        self._devices.labels(model).set_function(devices)

    def watch_versions(self, served: Callable[[], Iterable[tuple[str, str, str, str]]]) -> None:
        """Read which versions take requests whenever Prometheus asks: model, version, executor, precision of each."""
        self.registry.register(_Versions(served))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _ImagesInFlight(Collector):
    """One sample per model that takes requests."""

    def __init__(self, images: Callable[[], Mapping[str, int]]) -> None:
        self._images = images

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("resnet_images_in_flight", "Images accepted and not yet answered.", labels=["model"])
        for model, images in self._images().items():
            family.add_metric([model], images)
        yield family


class _Versions(Collector):
    """One sample for each version that takes requests; a version that is retired leaves nothing behind."""

    def __init__(self, served: Callable[[], Iterable[tuple[str, str, str, str]]]) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        labels = ("model", "version", "executor", "precision")
        family = GaugeMetricFamily("resnet_model_info", "Versions that take requests; always 1.", labels=labels)
        for values in self._served():
            family.add_metric(values, 1.0)
        yield family


class ModelMetrics:
    """The instruments of one model, found once: looking up labels costs as much as counting."""

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
        self._requests: dict[int, Count] = {}
        self._classes: dict[int, Count] = {}

    def batch(self, size: int, seconds: float, wasted: int) -> None:
        """A batch was computed, with so many rows beyond its images."""
        self._batch_sizes.observe(size)
        self._batch_seconds.observe(seconds)
        self._wasted_rows.inc(wasted)

    def device_lost(self) -> None:
        """A device was taken out."""
        self._devices_lost.inc()

    def retried(self) -> None:
        """A batch is tried again on another device."""
        self._batches_retried.inc()

    def prediction(self, index: int, label: str, probability: float) -> None:
        """An image was answered with this class as the likeliest."""
        index = min(index, _MAX_CLASSES)
        if index not in self._classes:
            label = label if index < _MAX_CLASSES else "others"
            self._classes[index] = self._metrics.predictions.labels(self._model, label)
        self._classes[index].inc()
        self._confidence.observe(probability)

    def request(self, record: RequestContext, status: int, seconds: float) -> None:
        """A request for this model was answered."""
        if status not in self._requests:
            self._requests[status] = self._metrics.requests.labels(self._model, str(status))
        self._requests[status].inc()
        if record.refused:
            self._refused[record.refused].inc()
        if status >= 400:  # refusals take no time, and would hide how long answers take
            return
        self._images.inc(record.images)
        for stage, _, stage_seconds in record.stages:
            self._stages[stage].observe(stage_seconds)
        self._stages["total"].observe(seconds)
