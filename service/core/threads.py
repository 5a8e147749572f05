"""Threads that compute give way to those that answer.

Were they equals, the event loop would wait for a processor while images that it has not handed over yet wait for it,
and the executors wait for those. It is never on a processor for long, so that they lose nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

_NICER = 5

_P = ParamSpec("_P")
_T = TypeVar("_T")


def lower_priority() -> None:
    """Have the calling thread, and those that it starts, give way to the others. Only Linux can do that."""
    if sys.platform == "linux":  # elsewhere the whole process would
        os.nice(_NICER)


def pin_to_cpu(processor: int) -> None:
    """Have the calling thread, and those that it starts, run on one processor."""
    os.sched_setaffinity(0, {processor})  # 0 is the calling thread


async def run_in_background(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a thread of its own that gives way, as do those that a runtime starts there."""
    pool = ThreadPoolExecutor(1, "background", lower_priority)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, partial(function, *args, **kwargs))
    finally:
        pool.shutdown(wait=False)
