"""Reads the repository again and again, and keeps the reason if it cannot be read."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from service.core.threads import run_in_background
from service.registry.repository import Contents, LoadError, read_repository
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

    Args:
        repository: the folder; whatever has this name when it is read.
        metrics: counts the reads.
        only_model: as of `read_repository`.
    """

    def __init__(self, repository: Path, metrics: Metrics, only_model: str | None = None) -> None:
        self.pause = _INTERVAL_SECONDS
        """Seconds to wait before the next read."""
        self._repository = repository
        self._metrics = metrics
        self._only_model = only_model
        self._trouble: str | None = None
        """Why the last read failed."""
        self._unreadable: dict[str, str] = {}
        self._started: float | None = None
        """Begin of the read that is under way, in `time.monotonic` seconds."""

    async def read(self) -> Contents | None:
        """Read the repository; None if this fails, which is logged once per reason."""
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
            return None
        finally:
            self._started = None
        self.pause = min(max(_INTERVAL_SECONDS, _LOAD_FACTOR * (time.monotonic() - started)), _MAX_INTERVAL_SECONDS)
        for name, reason in contents.unreadable.items():
            if self._unreadable.get(name) != reason:
                log.error("%s", reason)
        self._unreadable = contents.unreadable
        self._trouble = None
        self._metrics.repository_read("read")
        return contents

    def problems(self) -> list[str]:
        """Why the repository, or a model in it, cannot be read now; loaded versions continue."""
        problems = list(self._unreadable.values())
        if self._trouble is not None:
            problems.append(self._trouble)
        if self._started is not None and (seconds := time.monotonic() - self._started) > _SLOW_SECONDS:
            problems.append(f"{self._repository}: has not answered for {seconds:.0f} s")
        return problems
