"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """All instruments of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "resnet_requests", "Requests answered, by status.", ["model", "status"], registry=self.registry
        )
        self._images = Counter("resnet_images", "Images answered with predictions.", ["model"], registry=self.registry)
        self._stages = Histogram(
            "resnet_stage_seconds",
            "Time of a request in each stage: decode, queue, inference, total.",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_sizes = Histogram(
            "resnet_batch_size", "Images in a batch.", ["model"], buckets=_IMAGES, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "resnet_batch_seconds", "Time of a batch in the executor.", ["model"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._waiting = Gauge("resnet_queue_images", "Images that wait for a batch.", ["model"], registry=self.registry)
        self.in_flight = Gauge(
            "resnet_requests_in_flight", "Requests accepted and not yet answered.", registry=self.registry
        )

    def batch(self, model: str, size: int, seconds: float) -> None:
        """A batch was computed."""
        self._batch_sizes.labels(model).observe(size)
        self._batch_seconds.labels(model).observe(seconds)

    def request(self, model: str, status: int, images: int = 0, **stages: float) -> None:
        """A request was answered. `stages` are seconds by name."""
        self._requests.labels(model, str(status)).inc()
        if images:
            self._images.labels(model).inc(images)
        for stage, seconds in stages.items():
            self._stages.labels(model, stage).observe(seconds)

    def watch_queue(self, model: str, waiting: Callable[[], float]) -> None:
        """Read the length of a model's queue whenever Prometheus asks."""
        self._waiting.labels(model).set_function(waiting)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
