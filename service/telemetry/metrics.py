"""The metrics that Prometheus reads at /metrics.

Labels are bounded: names of loaded models, their classes, statuses, and the stages and reasons of fixed lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from service.core.errors import REASONS
from service.core.threads import run_in_background
from service.telemetry.background_log import dropped_lines
from service.telemetry.instruments import Count, CountedElsewhere, LoopCounter, LoopGauge, LoopHistogram
from service.telemetry.memory_metrics import MemoryMetrics
from service.telemetry.request_context import STAGES, RequestContext

if TYPE_CHECKING:
    from service.telemetry.shared_series import SharedAmount, SharedSeries
    from service.telemetry.sheet import Sheet

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_MAX_CLASSES = 1000
"""Classes of a model that are counted one by one; Prometheus keeps a time series for each."""


class Metrics:
    """All metrics of one service, in a registry of their own.

    Args:
        sheet: sheet of this process, which has begun it; None if the service is one process.
        sheets: sheets of all processes of the service, its own among them; their sum is rendered.
    """

    def __init__(self, sheet: Sheet | None = None, sheets: Sequence[Sheet] = ()) -> None:
        self.registry = CollectorRegistry()
        self._shared = None if sheet is None else self._share(sheet, sheets)
        if self._shared is None:
            ProcessCollector(registry=self.registry)
        self.thread_lock = Lock()
        """For the few values that threads count: the event loop needs none."""
        self._gauges: list[LoopGauge] = []
        self._elsewhere: list[CountedElsewhere] = []
        self.requests = self.counter("resnet_requests", "Requests answered, by HTTP or gRPC status.", "model", "status")
        self.refused = self.counter("resnet_requests_refused", "Requests refused, by reason.", "model", "reason")
        self.images = self.counter("resnet_images", "Images answered with predictions.", "model")
        self.predictions = self.counter(
            "resnet_predictions", "Images by their most probable class; a change shows drift.", "model", "label"
        )
        self.confidence = self._loop_histogram(
            "resnet_confidence", "Probability of the most probable class.", _CONFIDENCE, "model"
        )
        self.stages = self._loop_histogram(
            "resnet_stage_seconds", f"Time of a request in: {', '.join(STAGES)}, total.", _SECONDS, "model", "stage"
        )
        self.batch_sizes = self._loop_histogram("resnet_batch_size", "Images in a batch.", _IMAGES, "model")
        self.batch_seconds = self._loop_histogram(
            "resnet_batch_seconds", "Time of a batch in the executor.", _SECONDS, "model"
        )
        self.wasted_rows = self.counter(
            "resnet_wasted_rows", "Rows computed beyond the images of a batch, to fill its bucket.", "model"
        )
        self.devices_lost = self.counter("resnet_devices_lost", "Devices that failed and were taken out.", "model")
        self.batches_retried = self.counter(
            "resnet_batches_retried", "Batches that were computed again on another device.", "model"
        )
        self._loads = self.counter("resnet_model_loads", "Attempts to load a model, by outcome.", "outcome")
        self._load_seconds = self._loop_histogram(
            "resnet_model_load_seconds", "Time to load a model.", _LOAD_SECONDS
        ).labels()
        self.loop_lag = self._loop_histogram(
            "resnet_event_loop_lag_seconds",
            "Time by which the event loop is late, measured every 20 ms: no connection is served meanwhile.",
            _LAG_SECONDS,
        ).labels()
        labels = ("model", "version", "shadow", "outcome")
        self.shadow_images = self.counter("resnet_shadow_images", "Images for shadows, by outcome.", *labels)
        self._reads = self.counter("resnet_repository_reads", "Attempts to read the repository.", "outcome")
        self._make_gauges()
        self._models: dict[str, ModelMetrics] = {}
        self._counts_in_flight: list[Callable[[], int]] = []
        self._begin_at_zero()

    def _make_gauges(self) -> None:
        """Make the gauges, and the counters that are counted elsewhere. They are read when Prometheus scrapes."""
        self._devices = self.gauge("resnet_devices", "Devices that compute.", "model")
        self._stalled = self.gauge(
            "resnet_devices_stalled", "Devices that do not finish their batch, until the batch ends.", "model"
        )
        self.queue_images = self.gauge("resnet_queue_images", "Images that wait for a batch.", "model")
        self._in_flight = self.gauge("resnet_requests_in_flight", "Requests accepted and not yet answered.")
        lines = self.counter("resnet_log_lines_dropped", "Lines that the log lacks.").labels()
        self._elsewhere.append(CountedElsewhere(lines, dropped_lines))
        self._held = self.gauge(
            "resnet_decoder_threads_held", "Decoder threads held by images after the end of their requests."
        )
        labels = ("model", "version", "executor", "precision")
        self._versions = self.gauge("resnet_model_info", "Served versions; always 1.", *labels, combine=max)
        self._images_in_flight = self.gauge("resnet_images_in_flight", "Images accepted and not yet answered.", "model")
        self._threads_replaced = self.counter(
            "resnet_decoder_threads_replaced",
            "Decoder threads that were replaced, because an image held them past its time limit.",
        ).labels()

    def _begin_at_zero(self) -> None:
        """Make series: the increase of a series that begins at 1 is 0, and no alert fires."""
        for reason in REASONS:
            self.refused.labels("", reason)
        for outcome in ("loaded", "failed"):
            self._loads.labels(outcome)
        for outcome in ("read", "failed"):
            self._reads.labels(outcome)

    def _share(self, sheet: Sheet, sheets: Sequence[Sheet]) -> SharedSeries:
        from service.telemetry.shared_series import ProcessesCollector, SharedSeries  # not needed by one process

        shared = SharedSeries(sheet, sheets)
        self.registry.register(ProcessesCollector(shared))
        return shared

    @property
    def heartbeat(self) -> Callable[[], None] | None:
        """To be called by the event loop again and again; None in a single process."""
        return None if self._shared is None else self.beat

    @property
    def workers(self) -> int:
        """Number of processes that answer requests."""
        return 1 if self._shared is None else self._shared.workers

    def shared_amount(self, name: str, label: str) -> SharedAmount | None:
        """An amount that each process states for itself; None in a single process."""
        return None if self._shared is None else self._shared.amount(name, label)

    @cached_property
    def memory(self) -> MemoryMetrics:
        """Those of a service whose memory has a limit; others do not have them."""
        return MemoryMetrics(self.counter, self.gauge)

    def counter(self, name: str, text: str, *labels: str) -> LoopCounter:
        """Add a counter."""
        counter = LoopCounter(name, text, labels, self._shared)
        self.registry.register(counter)
        return counter

    def _loop_histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> LoopHistogram:
        histogram = LoopHistogram(name, text, bounds, labels, self._shared)
        self.registry.register(histogram)
        return histogram

    def gauge(self, name: str, text: str, *labels: str, combine: Callable[[Iterable[float]], float] = sum) -> LoopGauge:
        """Add a gauge; `combine` combines the values of several processes."""
        gauge = LoopGauge(name, text, labels, self._shared, combine)
        self._gauges.append(gauge)
        self.registry.register(gauge)
        return gauge

    def model(self, name: str) -> ModelMetrics:
        """The metrics of one loaded model."""
        if name not in self._models:
            self._models[name] = ModelMetrics(self, name)
        return self._models[name]

    def request(self, context: RequestContext, status: int | str, seconds: float, failed: bool) -> None:
        """Count a request that was answered; without a model, the label is empty."""
        if context.model:
            self.model(context.model).request(context, status, seconds, failed)
            return
        self.requests.labels("", str(status)).inc()
        if context.refused:
            self.refused.labels("", context.refused).inc()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Measure the loading of a model, which has failed if the block raises. Called by threads."""
        started = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "loaded"
        finally:
            with self.thread_lock:
                self._loads.labels(outcome).inc()
                self._load_seconds.observe(time.monotonic() - started)

    def repository_read(self, outcome: str) -> None:
        """Count an attempt to read the repository: `read` or `failed`."""
        self._reads.labels(outcome).inc()

    def watch_requests(self, in_flight: Callable[[], int]) -> None:
        """Read the number of requests in flight over one more protocol at each scrape."""
        self._counts_in_flight.append(in_flight)
        self._in_flight.watch(lambda: sum(count() for count in self._counts_in_flight))

    def watch_admitted(self, images: Callable[[], Mapping[str, int]]) -> None:
        """Read the number of images in flight per model at each scrape."""
        self._images_in_flight.watch_all(lambda: {(model,): number for model, number in images().items()})

    def watch_decoder_threads(self, held: Callable[[], int], replaced: Callable[[], int]) -> None:
        """Read at each scrape how many decoder threads are held, and how many were replaced since the start."""
        self._held.watch(held)
        self._elsewhere.append(CountedElsewhere(self._threads_replaced, replaced))

    def watch_models(self, read: Callable[[], Mapping[str, tuple[float, float, float]]]) -> None:
        """Read waiting images, devices and stalled devices of several models at each scrape, by name."""

        def column(place: int) -> dict[tuple[str, ...], float]:
            return {(name,): values[place] for name, values in read().items()}

        for place, gauge in enumerate((self.queue_images, self._devices, self._stalled)):
            gauge.watch_all(partial(column, place))

    def watch_versions(self, served: Callable[[], Iterable[tuple[str, str, str, str]]]) -> None:
        """Read the served versions at each scrape: model, version, executor and precision of each."""
        self._versions.watch_all(lambda: dict.fromkeys(served(), 1.0))

    def beat(self) -> None:
        """Write heartbeat, gauges and numbers counted elsewhere to the sheet of this process. On the event loop."""
        for counted in self._elsewhere:
            counted.update()
        gauges = [(gauge.name, gauge.read()) for gauge in self._gauges]
        if self._shared is not None:
            self._shared.beat(gauges)

    async def render(self) -> bytes:
        """All metrics in the text format of Prometheus; a thread makes it, because many models take half a second."""
        self.beat()
        if self._shared is not None:
            self._shared.find_running()
        return await run_in_background(generate_latest, self.registry)


class ModelMetrics:
    """The metrics of one model, with their labels resolved: a look-up costs as much as an increment."""

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
