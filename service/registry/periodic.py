"""Work that is done again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def repeat(step: Callable[[], Awaitable[float]], pause: float, stop: asyncio.Event) -> None:
    """Call a function until an event is set. An error is logged, and the next call follows.

    Args:
        step: does the work, and returns the seconds until the next call.
        pause: seconds until the first call.
        stop: ends the calls.
    """
    while not await _is_set_within(stop, pause):
        try:
            pause = await step()
        except Exception:  # otherwise the work would end without notice
            log.exception("%s failed; it is called again", getattr(step, "__qualname__", step))


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
