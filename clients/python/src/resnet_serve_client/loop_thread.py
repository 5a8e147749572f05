"""An event loop in a thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from resnet_serve_client.errors import ClientError

T = TypeVar("T")


class LoopThread:
    """Runs coroutines on an event loop in a daemon thread, which begins with the first of them.

    Args:
        finish: runs on the loop at its end.
    """

    def __init__(self, finish: Callable[[], Awaitable[None]]) -> None:
        self._finish = finish
        self._process = os.getpid()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._started = Event()
        self._closed = False

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine. Cancelling the future cancels the coroutine.

        Raises:
            ClientError: the thread has ended, or the process was forked.
        """
        if self._closed or self._process != os.getpid():
            coroutine.close()
            reason = "the client is closed" if self._closed else "the client was made before this process was forked"
            raise ClientError(f"{reason}: make another client")
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=lambda: asyncio.run(self._run()), name="resnet-serve-client", daemon=True)
                self._thread.start()
        self._started.wait()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end. An interrupt from the keyboard cancels it."""
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel all coroutines and end the thread."""
        self._closed = True
        if self._thread is not None and self._process == os.getpid():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set()
        await self._stop.wait()
        await self._finish()  # then `asyncio.run` cancels the coroutines that still run
