"""State of the connection of a request, shared by the server, the middlewares and the endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope

from service.core.body_memory import BodyMemory
from service.core.errors import ServiceError

_KEY = "connection"


@dataclass(slots=True)
class ConnectionState:
    """State of the connection of one request."""

    refusal: ServiceError | None = None
    """Why the request is refused: it cannot be parsed, or too many clients are connected."""
    body_complete: bool = False
    """Whether the server has received the whole body, so that reading it does not wait."""
    memory: BodyMemory | None = None
    """Memory that large responses are counted in."""
    response_bytes: int = 0
    """Bytes of a large response."""
    disconnected: bool = False
    """Whether the client has disconnected before the end of the response."""
    on_disconnect: list[Callable[[], None]] = field(default_factory=list)
    """Functions that the server calls if the client disconnects before the end of the response. Waiting for ASGI's
    `http.disconnect` instead takes a task per request."""

    def disconnect(self) -> None:
        """Record that the client has disconnected, and call the functions for it."""
        self.disconnected = True
        for callback in self.on_disconnect:
            callback()


def connection_state(scope: Scope) -> ConnectionState:
    """The connection state of a request; one with default values if the server has set none."""
    values = scope.setdefault("state", {})
    state = values.get(_KEY)
    if state is None:
        state = values[_KEY] = ConnectionState()
    assert isinstance(state, ConnectionState)
    return state


def hold_response(scope: Scope, size: int) -> None:
    """Count the bytes of a large response, until it is sent.

    Raises:
        Overloaded: there is no room for it.
    """
    state = connection_state(scope)
    if state.memory is not None:
        state.response_bytes += size
        state.memory.hold(size)
