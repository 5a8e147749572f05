"""OpenTelemetry traces: one span a request, and within it one span a stage. Needs the extra `tracing`.

FastAPI makes the request's span and reads the W3C `traceparent` header; where there is no provider it does nothing.
The spans of the stages are made afterwards, from the record. The OTEL_* variables of the OpenTelemetry specification
say where they go, and which share of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace

from service.telemetry.request_context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class TracingError(Exception):
    """Traces cannot be sent; the message says what to do."""


def otlp_provider() -> TracerProvider:
    """A provider that sends spans over OTLP, in a thread of its own.

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
    named = Resource({SERVICE_NAME: "resnet-serve"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Spans:
    """What the service adds to the span that FastAPI makes of a request."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("service")

    def describe(self, record: RequestContext) -> None:
        """Put what is known onto the request's span, which is the current one, before the answer ends it."""
        record.span = trace.get_current_span()
        record.span.set_attributes(
            {"resnet.request_id": record.request_id, "resnet.model": record.model, "resnet.version": record.version}
        )

    def stages(self, record: RequestContext) -> None:
        """Make a span of each stage, at the time at which it was, within the request's."""
        context = None if record.span is None else trace.set_span_in_context(record.span)
        to_wall_clock = time.time() - time.monotonic()
        for name, start, seconds in record.stages:
            began = start + to_wall_clock
            span = self._tracer.start_span(name, context, start_time=_nanoseconds(began))
            span.end(_nanoseconds(began + seconds))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
