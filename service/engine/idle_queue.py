"""Work without haste: one job after the other, and each part of a job while no engine computes on the CPU."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from service.core.errors import Overloaded
from service.core.threads import run_in_background, use_lowest_priority
from service.engine.engine import Engine
from service.engine.shadow_queue import PAUSE, RESPONSE_SECONDS

_MAX_JOBS = 8
"""Jobs that may wait."""
_MAX_WAIT_SECONDS = 2.0
"""Longest wait of a job for an idle moment."""
_CPU = "cpu"

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _IdleJob(NamedTuple):
    work: Callable[[], Awaitable[Any]]
    outcome: asyncio.Future[Any]


class IdleQueue:
    """Runs jobs one by one. Used on the event loop only.

    Args:
        engines: gives all engines that may use the CPU.
    """

    def __init__(self, engines: Callable[[], Iterable[Engine]]) -> None:
        self._engines = engines
        self._jobs: deque[_IdleJob] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        """Set after each batch of an engine."""
        self._pause_end = 0.0
        """Time before which no part of a job begins, in `time.monotonic` seconds."""

    async def run(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Run a job after those that wait. A job that was cancelled meanwhile is not begun.

        Raises:
            Overloaded: too many jobs wait.
        """
        if len(self._jobs) >= _MAX_JOBS:
            raise Overloaded(1)
        outcome: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._jobs.append(_IdleJob(work, outcome))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await outcome

    async def call_when_idle(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function in a thread of the lowest priority, in the next idle moment; for the job that runs.

        Raises:
            Overloaded: there is no idle moment for too long.
        """

        def call() -> _T:
            use_lowest_priority()
            return function(*args, **kwargs)

        await self._idle()
        started = time.monotonic()
        try:
            return await run_in_background(call)
        finally:
            # Without a pause, callers would often wait for the rest of a job.
            ended = time.monotonic()
            self._pause_end = ended + PAUSE * (ended - started)

    async def _work(self) -> None:
        while self._jobs:
            work, outcome = self._jobs.popleft()
            if outcome.done():
                continue
            try:
                result = await work()
            except Exception as error:
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(result)
        self._worker = None

    async def _idle(self) -> None:
        """Wait until no image waits for the CPU or is computed on it."""
        await asyncio.sleep(self._pause_end - time.monotonic())
        end = time.monotonic() + _MAX_WAIT_SECONDS
        while busy := [engine for engine in self._engines() if engine.busy and _CPU in engine.device_names]:
            self._changed.clear()
            for engine in busy:
                engine.observe(self._changed.set)
            try:
                async with asyncio.timeout_at(end):
                    await self._changed.wait()
                    await asyncio.sleep(RESPONSE_SECONDS)
            except TimeoutError:
                raise Overloaded(1, "would_be_late") from None
            finally:
                for engine in busy:
                    engine.forget(self._changed.set)
