"""OpenTelemetry traces: one span per request, with one child span per stage. Needs the extra `tracing`.

FastAPI makes the span of the request, and reads the W3C `traceparent` header. The spans of the stages are made after
the response, from the context of the request. The OTEL_* variables of the OpenTelemetry specification set the
collector.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from service.telemetry.request_context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class TracingError(Exception):
    """Traces cannot be sent; the message says how to fix it."""


def check_tracing() -> None:
    """Check that traces can be sent, without starting a thread.

    Raises:
        TracingError: the extra is not installed.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ModuleNotFoundError as error:
        raise TracingError(f"tracing needs the package {error.name!r}: pip install 'resnet-serve[tracing]'") from error


def otlp_provider() -> TracerProvider:
    """Make a provider that sends spans over OTLP, in a background thread.

    Raises:
        TracingError: the extra is not installed.
    """
    check_tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource({SERVICE_NAME: "resnet-serve"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class TraceSelector:
    """Selects the requests that are traced: each with a `traceparent` header, and a number per second of the others.

    A trace takes half as much time as the inference of a small network.

    Args:
        per_second: requests without the header that are traced per second; 0 for all.
        clock: seconds, monotonic.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._clock = clock
        self._used_until = 0.0
        """Time at which the number of the last second is free again."""

    def exclude(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether a request is not traced: FastAPI's `telemetry["exclude"]`."""
        if not self._interval or any(name == b"traceparent" for name, _ in scope["headers"]):
            return False
        now = self._clock()
        if self._used_until > now + 1.0:
            return True
        self._used_until = max(self._used_until, now) + self._interval
        return False


class Spans:
    """Adds attributes and child spans to the span that FastAPI makes for a request."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("service")

    def describe(self, context: RequestContext) -> None:
        """Set attributes of the current span, before the response ends it."""
        span = trace.get_current_span()
        if span.is_recording():
            context.span = span
            span.set_attributes(
                {
                    "resnet.request_id": context.request_id,
                    "resnet.model": context.model,
                    "resnet.version": context.version,
                }
            )

    def stages(self, context: RequestContext) -> None:
        """Make a child span for each stage, with the time at which it ran."""
        if context.span is None:
            return
        parent = trace.set_span_in_context(context.span)
        to_wall_clock = time.time() - time.monotonic()
        for name, start, seconds in context.stages:
            began = start + to_wall_clock
            span = self._tracer.start_span(name, parent, start_time=_nanoseconds(began))
            span.end(_nanoseconds(began + seconds))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
