"""Nothing is computed for a client that has gone."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive


class while_connected:
    """Cancels what runs within, once the client has hung up; the body must have been read.

    Raises:
        ClientDisconnect: in place of the cancellation.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        await self._receive()  # behind a body nothing else comes than that the client goes
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.cancel()
        # Where the server cancels the request as well, on shutdown, it stays cancelled.
        if self._gone and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect
