"""Threads for work beside the event loop, and their priorities and CPUs.

Threads that compute have a lower priority than the event loop. With equal priorities, the event loop would wait for a
CPU while the instances wait for images that it has not submitted yet. The loop runs for short times only, so the
instances lose nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from _thread import start_new_thread
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

_NICENESS = 5
_LOWEST = 19
_BEGIN_SECONDS = 5.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


def lower_priority() -> None:
    """Lower the priority of the calling thread, and of threads that it starts later. Does nothing except on Linux."""
    if sys.platform == "linux":  # on other systems the call would affect the whole process
        os.nice(_NICENESS)


def pin_to_cpu(cpu: int) -> None:
    """Pin the calling thread, and threads that it starts later, to one CPU."""
    os.sched_setaffinity(0, {cpu})  # 0 is the calling thread


_running: set[Future[Any]] = set()
"""Outcomes of the functions that run in the background."""


def running() -> bool:
    """Whether a function still runs in the background."""
    return bool(_running)


async def run_in_background(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in its own thread with a lower priority, which threads of a runtime inherit.

    The process can end while the function still runs, so the function may wait for an event that does not come.

    Raises:
        MemoryError: the thread did not begin.
    """
    outcome: Future[_T] = Future()
    outcome.set_running_or_notify_cancel()  # from now on, a cancellation of the caller leaves it alone
    begun = False

    def run() -> None:
        nonlocal begun
        begun = True
        try:
            lower_priority()
            outcome.set_result(function(*args, **kwargs))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            _running.discard(outcome)

    # `Thread.start` waits until the new thread has begun: for ever, if there is no memory left for its first steps.
    _running.add(outcome)
    try:
        start_new_thread(run, ())
    except RuntimeError:
        _running.discard(outcome)
        raise MemoryError("another thread cannot be started") from None
    result = asyncio.wrap_future(outcome)
    try:
        await asyncio.wait([result], timeout=_BEGIN_SECONDS)
    except asyncio.CancelledError:
        result.cancel()
        raise
    if not begun:
        raise MemoryError("there is not enough memory for another thread")
    return await result


def call_at_lowest_priority(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a thread of its own with the lowest priority, and wait for it. The priority of the calling
    thread, which cannot be raised again, and of threads that a runtime has started stays."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            use_lowest_priority()
            outcome.set_result(function(*args, **kwargs))
        except BaseException as error:
            outcome.set_exception(error)

    start_new_thread(run, ())
    return outcome.result()


def use_lowest_priority() -> None:
    """Give the calling thread the lowest priority, for good. Does nothing except on Linux."""
    if sys.platform == "linux":
        os.nice(_LOWEST)


_python_thread = ThreadPoolExecutor(1, "python")


async def run_python(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that holds the interpreter lock for milliseconds, in the one thread for such work.

    A second thread would gain nothing, and between two functions the event loop has its turn. The thread has the
    priority of the event loop, which waits for the lock.
    """
    return await asyncio.get_running_loop().run_in_executor(_python_thread, partial(function, *args, **kwargs))
