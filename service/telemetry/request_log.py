"""Records each request after its response: a log line, metrics and spans, from its context."""

from __future__ import annotations

import logging
import re
import time
from functools import partial
from random import getrandbits
from typing import TYPE_CHECKING, Any

from service.telemetry.metrics import Metrics
from service.telemetry.request_context import RequestContext

if TYPE_CHECKING:
    from service.telemetry.tracing import Spans

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def request_id(given: str) -> str:
    """The id of a request: that of the client if it is short and plain, or a new one."""
    return given if _ACCEPTED_ID.fullmatch(given) else f"{getrandbits(64):016x}"


class RequestLog:
    """Records requests.

    Args:
        metrics: counts them.
        spans: adds spans to their traces; None without tracing.
        log: gets their lines.
    """

    def __init__(self, metrics: Metrics, spans: Spans | None, log: logging.Logger) -> None:
        self._metrics = metrics
        self._spans = spans
        self._log = log

    def finish(self, context: RequestContext, status: int | str, failed: bool) -> None:
        """Record a request that was answered.

        Args:
            context: its context.
            status: HTTP status, or name of the gRPC code.
            failed: whether it has no result.
        """
        seconds = time.monotonic() - context.started
        self._metrics.request(context, status, seconds, failed)
        if self._spans is not None:
            if context.span is None:  # an unexpected error, which has no response yet
                self._spans.describe(context)
            self._spans.stages(context)
        if self._log.isEnabledFor(logging.INFO):
            fields = {"fields": partial(_fields, context, status, seconds)}
            message = ("%s %s %s", (context.method, context.path, status))
            # `log.info` also finds the calling line of code, which is half of its cost.
            self._log.handle(
                self._log.makeRecord(self._log.name, logging.INFO, __file__, 0, *message, None, extra=fields)
            )


def _fields(context: RequestContext, status: int | str, seconds: float) -> dict[str, Any]:
    """The fields of the log line of a request; times in milliseconds."""
    fields: dict[str, Any] = {
        "request_id": context.request_id,
        "caller": context.caller,
        "method": context.method,
        "path": context.path,
        "status": status,
        "total_ms": round(seconds * 1000, 3),
    }
    if context.refused:
        fields["refused"] = context.refused
    if context.load_seconds:
        fields["load_ms"] = round(context.load_seconds * 1000, 3)
    if context.model:
        fields |= {"model": context.model, "version": context.version, "priority": context.priority}
        fields |= {"images": context.images, "batch_size": context.batch_size}
    for name, _, stage_seconds in context.stages:
        name = f"{name}_ms"
        fields[name] = round(fields.get(name, 0.0) + stage_seconds * 1000, 3)
    return fields
