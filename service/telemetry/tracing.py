"""OpenTelemetry traces: one span per request, with one child span per stage. Needs the extra `tracing`.

FastAPI makes the span of a request over HTTP, and reads the W3C `traceparent` header; `Spans` does so for a call over
gRPC. The spans of the stages are made after the response, from the context of the request. The OTEL_* variables of the
OpenTelemetry specification set the collector.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from models.extras import missing
from service.telemetry.request_context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_PROPAGATOR = TraceContextTextMapPropagator()


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
        raise TracingError(missing("--tracing", error.name, "tracing")) from error


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
        """Time up to which the allowed number is used up. Each traced request moves it by the interval; it may be up to
        a second ahead of the clock."""

    def exclude(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether a request is not traced: FastAPI's `telemetry["exclude"]`."""
        return not self.select(any(name == b"traceparent" for name, _ in scope["headers"]))

    def select(self, has_parent: bool) -> bool:
        """Whether a request is traced.

        Args:
            has_parent: whether it has a `traceparent`.
        """
        if not self._interval or has_parent:
            return True
        now = self._clock()
        if self._used_until > now + 1.0:
            return False
        self._used_until = max(self._used_until, now) + self._interval
        return True


class Spans:
    """Adds attributes and child spans to the span of a request.

    Args:
        provider: receives the spans.
        selector: selects the calls over gRPC that are traced. FastAPI makes the spans of requests over HTTP, and asks
            the selector itself.
    """

    def __init__(self, provider: TracerProvider, selector: TraceSelector) -> None:
        self._tracer = provider.get_tracer("service")
        self._selector = selector

    def start(self, context: RequestContext, name: str, headers: Mapping[str, str]) -> None:
        """Start the span of a call over gRPC, if it is traced.

        Args:
            context: gets the span.
            name: name of the span.
            headers: `traceparent` and `tracestate` of the call, if it has them.
        """
        if self._selector.select("traceparent" in headers):
            parent = _PROPAGATOR.extract(headers)
            context.span = self._tracer.start_span(name, parent, trace.SpanKind.SERVER)

    def end(self, context: RequestContext, code: str, failed: bool) -> None:
        """End the span of a call over gRPC, if there is one."""
        span = context.span
        if span is None:
            return
        self._set_attributes(span, context)
        span.set_attribute("rpc.response.status_code", code)
        if failed:
            span.set_status(trace.StatusCode.ERROR)
        span.end()

    def describe(self, context: RequestContext) -> None:
        """Set attributes of the current span, before the response ends it."""
        span = trace.get_current_span()
        if span.is_recording():
            context.span = span
            self._set_attributes(span, context)

    @staticmethod
    def _set_attributes(span: trace.Span, context: RequestContext) -> None:
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
