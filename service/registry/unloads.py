"""Versions of a model that finish their requests and are then freed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from models import malloc
from service.core.threads import run_in_background
from service.registry.version import Version

log = logging.getLogger(__name__)


class Unloads:
    """Frees versions of a model. Used on the event loop only.

    Args:
        name: name of the model.
        freed: called after a version was freed.
    """

    def __init__(self, name: str, freed: Callable[[], None]) -> None:
        self._name, self._freed = name, freed
        self._tasks: dict[Version, asyncio.Task[None]] = {}

    def __bool__(self) -> bool:
        """Whether a version is not freed yet."""
        return bool(self._tasks)

    def begin(self, version: Version) -> None:
        """Have a version take no requests any more, and free it after those that hold it."""
        version.set_unloading()
        self._tasks[version] = asyncio.create_task(self._unload(version))

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until all versions are freed. Returns whether they are after that time."""
        tasks = self._tasks.values()
        return not tasks or not (await asyncio.wait(tasks, timeout=seconds))[1]

    async def finish(self) -> None:
        """Free all versions without waiting for requests that still hold one."""
        for version in self._tasks:
            version.unused.set()
        await self.wait()

    async def _unload(self, version: Version) -> None:
        try:
            await version.unused.wait()
            await version.engine.close()
            await run_in_background(malloc.trim)
        except Exception:  # a version that cannot be freed must not keep its entry
            log.exception("%s version %d was not freed", self._name, version.number)
        finally:
            del self._tasks[version]
            version.set_unavailable("unloaded")
            self._freed()
        log.info("%s version %d is unloaded", self._name, version.number)
