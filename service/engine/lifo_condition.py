"""A condition variable that wakes the thread which began to wait last.

`threading.Condition` wakes the one that has waited longest. Of threads that compute, the one that was busy last has
the network still in its processor's caches.
"""

from __future__ import annotations

from threading import Lock
from types import TracebackType


class LifoCondition:
    """As `threading.Condition`; all methods are to be called with the condition, or its lock, entered.

    Args:
        lock: of what the condition is about.
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._bells: list[Lock] = []
        """Of the threads that wait: each waits to acquire its own."""

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> None:
        """Let others in until notified, or for so many seconds."""
        bell = Lock()
        bell.acquire()
        self._bells.append(bell)
        self._lock.release()
        try:
            bell.acquire(timeout=-1 if timeout is None else timeout)
        finally:
            self._lock.acquire()
            if bell in self._bells:  # nobody has rung
                self._bells.remove(bell)

    def notify(self) -> None:
        """Wake one thread, if any waits."""
        if self._bells:
            self._bells.pop().release()

    def notify_all(self) -> None:
        """Wake all that wait."""
        while self._bells:
            self.notify()
