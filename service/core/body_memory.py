"""Memory of the bodies of requests, and of large responses."""

from __future__ import annotations

import asyncio

from models import malloc
from service.core.errors import Overloaded

_LARGE = 256 * 1024
_QUIET_SECONDS = 2.0


class BodyMemory:
    """Memory of the bodies of all requests in flight. Returns memory to the system some time after large bodies.

    Args:
        max_bytes: most bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, size: int) -> None:
        """Count bytes.

        Raises:
            Overloaded: there are too many. They are counted all the same.
        """
        self._used_bytes += size
        if self._used_bytes > self._max_bytes:
            raise Overloaded(1, "memory")

    def release(self, size: int) -> None:
        """End the count of the bytes of a request."""
        self._used_bytes -= size
        if size >= _LARGE:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._trim)

    def _trim(self) -> None:
        # The C library keeps freed memory: 54 MB after a few JSON bodies.
        asyncio.get_running_loop().run_in_executor(None, malloc.trim)
