"""Reads the repository again and again, and keeps the reason if it cannot be read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from service.core.settings import Settings
from service.core.threads import run_in_background
from service.registry.repository import LoadError, VersionDir, read_repository
from service.registry.storage import StorageMirror
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0
_MAX_INTERVAL_SECONDS = 10.0
_LOAD_FACTOR = 20
"""The pause after a read is this many times as long as the read, within these intervals: at most 5 % of a CPU."""
_SLOW_SECONDS = 30.0
"""Time of a read after which it is reported: a network file system may not answer."""


class RepositoryReader:
    """Reads a repository in the background, one read at a time.

    File events are not used: the kernel drops them under load, network file systems have none, and they belong to a
    folder that may have been replaced by another one with its name: see docs/decisions/repository-reads.md.

    A repository in object storage is copied into a folder in a thread of its own: a long download stops no read.

    Args:
        settings: the repository; whatever has this name when it is read.
        metrics: counts the reads.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.pause = _INTERVAL_SECONDS
        """Seconds to wait before the next read."""
        self._repository = settings.repository_folder
        self._only_model = settings.only_model
        self._metrics = metrics
        url = settings.repository
        self._mirror = None if isinstance(url, Path) else StorageMirror(url, self._repository)
        self._poll_seconds = settings.storage_poll_seconds
        self._copying: asyncio.Task[None] | None = None
        """The last look at the storage."""
        self._next_look = 0.0
        """Time of the next one, in `time.monotonic` seconds."""
        self._known: dict[str, dict[int, VersionDir]] = {}
        """The versions, by model and number, as they were when they could be read."""
        self._trouble: str | None = None
        """Why the last read failed."""
        self._unreadable: dict[str, str] = {}
        self._started: float | None = None
        """Begin of the read that is under way, in `time.monotonic` seconds."""

    async def read(self, now: bool = False) -> Mapping[str, Mapping[int, VersionDir]]:
        """Read the repository. If it, or the folder of a model, cannot be read, that is logged once per reason.

        Args:
            now: look at the object storage first, if the repository is there. Otherwise only the first read does.

        Returns:
            The versions, by model and number; those of unreadable folders as before: a file system may be missing for
            a moment.
        """
        if self._mirror is not None:
            await self._copy(self._mirror, now or self._copying is None)
        started = self._started = time.monotonic()
        self.pause = _INTERVAL_SECONDS
        try:
            contents = await run_in_background(read_repository, self._repository, self._only_model)
        except Exception as error:  # whatever happens, the next read comes
            trouble = str(error) if isinstance(error, LoadError) else f"{self._repository}: cannot be read: {error!r}"
            if trouble != self._trouble:
                log.error("%s", trouble, exc_info=None if isinstance(error, LoadError) else error)
            self._trouble = trouble
            self._metrics.repository_read("failed")
            return self._known
        finally:
            self._started = None
        self.pause = min(max(_INTERVAL_SECONDS, _LOAD_FACTOR * (time.monotonic() - started)), _MAX_INTERVAL_SECONDS)
        for name, reason in contents.unreadable.items():
            if self._unreadable.get(name) != reason:
                log.error("%s", reason)
        self._unreadable = contents.unreadable
        self._trouble = None
        self._metrics.repository_read("read")
        kept = contents.unreadable.keys() & self._known.keys()
        self._known = contents.versions | {name: self._known[name] for name in kept}
        return self._known

    async def _copy(self, mirror: StorageMirror, now: bool) -> None:
        """Look at the storage if it is time; `now` looks at once and waits for the end."""
        if self._copying is not None and not self._copying.done():
            if not now:
                return
            await self._copying  # it may have begun before what the caller wants to see was there
        if now or time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._poll_seconds
            self._copying = asyncio.create_task(self._copy_in_background(mirror))
        if now and self._copying is not None:
            await self._copying

    async def _copy_in_background(self, mirror: StorageMirror) -> None:
        try:
            await run_in_background(mirror.sync)
        except Exception:  # whatever happens, the next look comes
            log.exception("%s: was not copied", self._repository)

    def problems(self) -> list[str]:
        """Why the repository, or a model in it, cannot be read now; loaded versions continue."""
        problems = list(self._unreadable.values())
        if self._mirror is not None:
            problems += self._mirror.problems
        if self._trouble is not None:
            problems.append(self._trouble)
        if self._started is not None and (seconds := time.monotonic() - self._started) > _SLOW_SECONDS:
            problems.append(f"{self._repository}: has not answered for {seconds:.0f} s")
        return problems
