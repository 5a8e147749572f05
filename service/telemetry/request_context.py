"""What is known of one request: filled in on its way through the service, and read when it has been answered.

The log line, the metrics and the trace are three views of a record, so that a stage is timed in one place.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span

STAGES = ("read", "decode", "queue", "assembly", "inference", "extras", "postprocess")
"""In the order of a request's way. `assembly` is the copying of images into the executor's buffer; `extras` is the
drawing of activation maps."""


@dataclass(slots=True)
class RequestContext:
    """One request."""

    request_id: str = ""
    caller: str = ""
    method: str = ""
    path: str = ""
    started: float = field(default_factory=time.monotonic)
    priority: str = ""
    model: str = ""
    """Empty until a model that is loaded has been found."""
    version: str = ""
    images: int = 0
    """Answered with predictions."""
    batch_size: int = 0
    """Of the largest batch that they were in."""
    refused: str | None = None
    """The reason, from `errors.REASONS`."""
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    """(name, start as `time.monotonic` seconds, seconds), in the order in which they ended."""
    span: Span | None = None
    """The trace's, where there is one."""

    def stage(self, name: str, start: float, seconds: float) -> None:
        """A stage has ended. Requests of several images that are answered one by one have one each."""
        self.stages.append((name, start, seconds))


_current: ContextVar[RequestContext] = ContextVar("record")


def begin(record: RequestContext) -> None:
    """Make it the record of the running task, and of those that it starts."""
    _current.set(record)


def current() -> RequestContext:
    """The record of the request that is being served; outside of one, a record that nobody reads."""
    return _current.get(None) or RequestContext()
