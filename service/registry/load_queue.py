"""The queue of loads: versions are loaded one after another, in threads, and each has room before it begins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Condition
from typing import Protocol

from service.core.threads import run_in_background
from service.registry.loader import Loader
from service.registry.repository import LoadError, VersionDir
from service.registry.version import LoadedVersion

_TURN_SECONDS = 2.0
"""Time after which the next load begins beside one that is not done: loads take less memory one after another."""


class NoRoom(LoadError):
    """There is no memory for a model now.

    Args:
        message: what the memory is used for.
        seconds: time after which there may be memory.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Reserved(Protocol):
    """Memory that is kept for a load."""

    async def settle(self, loaded: bool) -> None:
        """End the reservation after the load, which may have failed."""
        ...


class Room(Protocol):
    """Makes room in memory."""

    async def make(self, name: str, directory: VersionDir) -> Reserved:
        """Reserve the memory that a version of a model takes while it is loaded.

        Raises:
            NoRoom: there is none.
        """
        ...


class LoadQueue:
    """Loads the versions of all models.

    Args:
        loader: loads a version, in a thread.
        room: makes room for each load; None if memory has no limit.
    """

    def __init__(self, loader: Loader, room: Room | None = None) -> None:
        self._loader, self._room = loader, room
        self._turn = asyncio.Lock()
        """Held by the load that has begun last."""
        self._running = 0
        """Loads in threads, which go on if nothing waits for them any more."""
        self._ended = Condition()
        """Notified when a load has ended."""

    async def load(self, name: str, directory: VersionDir) -> LoadedVersion:
        """Load a version after those that were begun before, or beside one that takes long.

        Raises:
            LoadError: the version cannot be loaded, or there is no room.
        """
        async with self._turn:
            reserved = None if self._room is None else await self._room.make(name, directory)
            load = asyncio.ensure_future(run_in_background(self._load, directory.folder))
            try:
                await asyncio.wait([load], timeout=_TURN_SECONDS)
            except asyncio.CancelledError:
                load.cancel()
                raise
            if reserved is not None and load.done():
                await reserved.settle(load.exception() is None)
                reserved = None
        try:
            return await load
        finally:
            if reserved is not None:
                await reserved.settle(load.done() and not load.cancelled() and load.exception() is None)

    def _load(self, folder: Path) -> LoadedVersion:
        with self._ended:
            self._running += 1
        try:
            return self._loader.load(folder)
        finally:
            with self._ended:
                self._running -= 1
                self._ended.notify_all()

    async def end(self) -> None:
        """Wait until no thread loads: a runtime may abort a process that ends meanwhile."""
        if self._running:
            await run_in_background(self._wait_until_idle)

    def _wait_until_idle(self) -> None:
        with self._ended:
            self._ended.wait_for(lambda: not self._running)
