"""Threads that decode, none of which a file can hold for ever.

A codec cannot be interrupted in its own code. If a request ends and the thread of its file does not give up, the thread
is replaced, and ends when the codec returns. The number of replacements is bounded. All threads are daemons: the
end of the process does not wait for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from service.core.threads import lower_priority

_GRACE_SECONDS = 0.25
"""Time for a thread to give up after its request ended. Codecs in Python and most native ones do so within it."""

_T = TypeVar("_T")


class _Job(Generic[_T]):
    """A call, whether it holds a thread that was given up, and whether it has returned."""

    def __init__(self, function: Callable[[], _T]) -> None:
        self.function = function
        self.future: Future[_T] = Future()
        self.held = False
        self.replaced = False
        self.returned = False


class DecoderThreads:
    """Runs calls in threads.

    Args:
        count: threads; at most as many again replace those that are held.
    """

    def __init__(self, count: int) -> None:
        self._most = 2 * count
        self._jobs: SimpleQueue[_Job[object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self.held = 0
        """Threads that a codec holds after the request of its image ended."""
        self.replaced = 0
        """Threads that were replaced since the start."""
        self._closed = False
        for _ in range(count):
            self._start()

    @property
    def exhausted(self) -> bool:
        """Whether all threads are held, and no further one replaces them."""
        return self.held >= self._most

    async def run(self, function: Callable[[], _T], give_up: Callable[[], None]) -> _T:
        """Call a function in a thread.

        Args:
            function: the call.
            give_up: called if the caller is cancelled: has the function end soon.
        """
        job = _Job(function)
        self._jobs.put(job)  # type: ignore[arg-type]
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            if not job.future.cancel():
                give_up()
                asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._replace, job)
            raise

    def close(self) -> None:
        """Let the threads end after their calls, without waiting for them."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name="decode", daemon=True).start()

    def _replace(self, job: _Job[_T]) -> None:
        """Replace the thread of a call that has not given up."""
        with self._lock:
            if job.returned or not job.future.running():
                return
            job.held = True
            self.held += 1
            if self._threads < self._most and not self._closed:
                job.replaced = True
                self.replaced += 1
                self._start()

    def _work(self) -> None:
        lower_priority()
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                result = job.function()
            except BaseException as error:
                self._finish(job)
                job.future.set_exception(error)
            else:
                self._finish(job)
                job.future.set_result(result)
                del result
            ends = job.replaced
            del job  # an error holds this frame, and with it the job and the image: such a circle would stay in memory
            if ends:
                break
        with self._lock:
            self._threads -= 1

    def _finish(self, job: _Job[object]) -> None:
        with self._lock:
            self.held -= job.held
            job.held, job.returned = False, True
