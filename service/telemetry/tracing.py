"""OpenTelemetry traces: one span per request, with one child span per stage. Needs the extra `tracing`.

FastAPI makes the span of the request, and reads the W3C `traceparent` header. The spans of the stages are made after
the response, from the context of the request. The OTEL_* variables of the OpenTelemetry specification set the collector
and the share of requests that are traced.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace

from service.telemetry.request_context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class TracingError(Exception):
    """Traces cannot be sent; the message says how to fix it."""


def otlp_provider() -> TracerProvider:
    """Make a provider that sends spans over OTLP, in a background thread.

    Raises:
        TracingError: the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise TracingError(f"tracing needs the package {error.name!r}: pip install 'resnet-serve[tracing]'") from error
    resource = Resource({SERVICE_NAME: "resnet-serve"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Spans:
    """Adds attributes and child spans to the span that FastAPI makes for a request."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("service")

    def describe(self, context: RequestContext) -> None:
        """Set attributes of the current span, before the response ends it."""
        context.span = trace.get_current_span()
        context.span.set_attributes(
            {"resnet.request_id": context.request_id, "resnet.model": context.model, "resnet.version": context.version}
        )

    def stages(self, context: RequestContext) -> None:
        """Make a child span for each stage, with the time at which it ran."""
        parent = None if context.span is None else trace.set_span_in_context(context.span)
        to_wall_clock = time.time() - time.monotonic()
        for name, start, seconds in context.stages:
            began = start + to_wall_clock
            span = self._tracer.start_span(name, parent, start_time=_nanoseconds(began))
            span.end(_nanoseconds(began + seconds))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
