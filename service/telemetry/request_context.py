"""The context of a request: filled in by the stages that the request passes, and read after its response.

The log line, the metrics and the trace are made from it, so that each stage is timed in one place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.trace import Span

STAGES = ("read", "decode", "queue", "assembly", "inference", "extras", "postprocess")
"""Stages in the order in which a request passes them. `assembly` copies images into the buffer of the executor;
`extras` draws activation maps."""


def find_header(headers: Iterable[tuple[bytes, bytes]], name: bytes, default: str = "") -> str:
    """The first header with a name in lower case. A quarter of the time of Starlette's `Headers`."""
    for given, value in headers:
        if given == name:
            return value.decode("latin-1")
    return default


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
    """Name of the model; empty until a loaded model is found."""
    version: str = ""
    images: int = 0
    """Images answered with predictions."""
    batch_size: int = 0
    """Size of the largest batch with an image of the request."""
    load_seconds: float = 0.0
    """Time that the request waited for its model to be loaded."""
    refused: str | None = None
    """Reason of a refusal, from `errors.REASONS`."""
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    """(name, start as `time.monotonic` seconds, seconds), in the order in which the stages ended."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Headers of the request, with names in lower case."""
    routed: Literal["", "header", "policy"] = ""
    """The selection of the version by a header or a traffic policy; empty for the one of the path, or the default."""
    span: Span | None = None
    """Span of the request, if it is traced."""

    def header(self, name: bytes) -> str:
        """The first header with a name in lower case; empty without one."""
        return find_header(self.headers, name)

    def stage(self, name: str, start: float, seconds: float) -> None:
        """Add a stage that has ended. A request whose images are answered one by one adds each stage several times."""
        self.stages.append((name, start, seconds))


_current: ContextVar[RequestContext] = ContextVar("request_context")


def begin(context: RequestContext) -> None:
    """Set the context of the running task, and of the tasks that it starts."""
    _current.set(context)


def current() -> RequestContext:
    """The context of the running request; outside of a request, a new one that is never read."""
    return _current.get(None) or RequestContext()
