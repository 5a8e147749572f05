"""Nothing is computed for a client that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Scope

HANG_UP = "resnet.hang_up"
"""ASGI extension: a list of functions that the server calls when the client hangs up before it is answered. To wait
for ASGI's own message takes a task for each request, which costs more than anything else that watches over it."""


class cancel_on_disconnect:
    """Cancels what runs within, once the client has hung up; not under a server that does not tell.

    Raises:
        ClientDisconnect: in place of the cancellation.
    """

    def __init__(self, scope: Scope) -> None:
        self._watchers: list[Callable[[], None]] = scope.get("extensions", {}).get(HANG_UP, [])
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watchers.append(self._leave)

    def _leave(self) -> None:
        self._gone = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watchers.remove(self._leave)
        # Where the server cancels the request as well, on shutdown, it stays cancelled.
        if self._gone and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect
