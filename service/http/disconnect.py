"""Work for a client that disconnects is cancelled."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Scope

from service.http.connection_state import connection_state


class cancel_on_disconnect:
    """Context manager that cancels its block when the client disconnects, if the server reports disconnects.

    Raises:
        ClientDisconnect: in place of the cancellation; on entering: the client has disconnected before.
    """

    def __init__(self, scope: Scope) -> None:
        self._connection = connection_state(scope)
        self._callbacks = self._connection.on_disconnect
        self._disconnected = False

    def __enter__(self) -> None:
        if self._connection.disconnected:
            raise ClientDisconnect
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._callbacks.append(self._cancel)

    def _cancel(self) -> None:
        self._disconnected = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._callbacks.remove(self._cancel)
        # If the server cancels the request as well, on shutdown, the request stays cancelled.
        if self._disconnected and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect
