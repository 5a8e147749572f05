"""The versions of one model: which take requests, and how one replaces another.

Every change happens on the event loop; only loading runs in a thread, while other versions take requests. A request
holds its version until its response, so a version can be retired at any time without an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Mapping
from contextlib import suppress

from service.core import malloc
from service.core.threads import run_in_background
from service.core.version_policy import Policy
from service.messages.catalog import CatalogModel
from service.messages.status import VersionState, VersionStatus
from service.registry.loader import Loader
from service.registry.repository import LoadError, VersionDir
from service.registry.version import LoadedVersion, LoadFailure, Version

log = logging.getLogger(__name__)

_RETRY_SECONDS = 10.0
_MAX_RETRY_SECONDS = 600.0
"""Pause after a load that failed; it doubles with each attempt. Memory or file descriptors may be available again."""
_TURN_SECONDS = 2.0
"""Time after which the next load begins beside one that is not done: loads take less memory one after another."""


class ModelVersions:
    """The versions of a model that are in the repository or in memory.

    Args:
        name: name of the model.
        loader: loads a version, in a thread.
        turn: held by the load that has begun last, for all models together.
        changed: called after every change of what `catalog` returns.
    """

    def __init__(
        self, name: str, loader: Loader, turn: asyncio.Lock, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.current: Version | None = None
        """The version that answers requests without a version: the newest that is READY, or with a traffic policy the
        one with the largest weight of those."""
        self._loader = loader
        self._turn = turn
        self._changed = changed
        self._versions: dict[int, Version] = {}
        self._found: Mapping[int, VersionDir] = {}
        self._policy = Policy("latest")
        self._loading: dict[int, Version] = {}
        """The content of each version that is loaded now; an older content may take requests meanwhile."""
        self._loads: set[asyncio.Task[None]] = set()
        """Tasks of these, and of loads that are not needed any more."""
        self._settled = asyncio.Event()
        """Set while no version is loaded."""
        self._unloading: dict[Version, asyncio.Task[None]] = {}

    @property
    def ready(self) -> list[Version]:
        """Versions that take requests, oldest first."""
        return [self._versions[number] for number in sorted(self._versions) if self._versions[number].ready]

    @property
    def empty(self) -> bool:
        """Whether no version is in the repository or in memory."""
        return not (self._found or self._versions or self._loads or self._unloading)

    def catalog(self) -> CatalogModel:
        """The model, as requests see it."""
        return CatalogModel(
            name=self.name,
            current=None if self.current is None else self.current.served,
            versions={version.number: version.served for version in self.ready},
            failures={
                number: version.reason or ""
                for number, version in sorted(self._versions.items())
                if version.failed is not None
            },
            loading=frozenset(self._loading),
            traffic=self._policy.traffic,
        )

    def failure(self) -> str | None:
        """Why the newest version that failed could not be loaded."""
        return self.catalog().failure()

    @property
    def found(self) -> Container[int]:
        """Versions in the repository."""
        return self._found

    def reconcile(self, found: Mapping[int, VersionDir], policy: Policy) -> None:
        """Begin to load the versions that the policy selects from the repository, and retire the others.

        If none of the selected versions can be loaded, the versions that took requests continue.
        """
        self._found, self._policy = found, policy
        self._update()

    async def settled(self) -> None:
        """Wait until no version is being loaded."""
        await self._settled.wait()

    def _update(self) -> None:
        """Begin the loads that are due, and retire the versions that are not needed any more."""
        candidates = self._policy.candidates(self._found)
        for number in self._loading.keys() - set(candidates):
            self._drop_load(number)
        self._update_entries()
        kept, loads = set(), False
        for number in candidates:
            if not (loads and self._policy.one):
                self._ensure_loaded(number)
            loads |= number in self._loading
            if self._versions[number].ready:
                kept.add(number)
                if self._policy.one:
                    break
        if kept or not candidates:
            for version in self.ready:
                if version.number not in kept:
                    self._retire(version)
        self._update_entries()
        if self._loading:
            self._settled.clear()
        else:
            self._settled.set()
        self._changed()

    def _update_entries(self) -> None:
        """Have an entry for every version in the repository, and none for one that is in neither place."""
        for number, version in list(self._versions.items()):
            if version.state is VersionState.UNAVAILABLE and number not in self._found:
                del self._versions[number]
        for number, directory in self._found.items():
            entry = self._versions.get(number)
            if entry is None or (entry.state is VersionState.UNAVAILABLE and entry.directory != directory):
                entry = self._versions[number] = Version(number, directory)
            if entry.state is VersionState.UNAVAILABLE and entry.failed is None:
                entry.reason = f"not chosen by the version policy: {self._policy.text}"

    def _update_current(self) -> None:
        weights = {} if self._policy.traffic is None else self._policy.traffic.weights
        numbers = {version.number: version for version in self.ready}
        newest = max(numbers, key=lambda number: (weights.get(number, 0.0), number), default=None)
        self.current = None if newest is None else numbers[newest]
        self._changed()

    def _ensure_loaded(self, number: int) -> None:
        """Begin to load the content that a version has in the repository, unless this is done or has failed."""
        version, directory = self._versions[number], self._found[number]
        loading = self._loading.get(number)
        if loading is not None and loading.directory == directory:
            return
        if version.ready and version.directory.fingerprint == directory.fingerprint:
            version.reason = version.failed = None
            return
        failed = version.failed
        if failed is not None and failed.fingerprint == directory.fingerprint and time.monotonic() < failed.retry_at:
            return
        new = version if version.state is VersionState.UNAVAILABLE else Version(number, directory)
        if not version.ready:
            self._versions[number] = new
        self._loading[number] = new
        new.set_loading()
        task = asyncio.create_task(self._load(new))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    def _drop_load(self, number: int) -> None:
        """Forget a load that has no use any more; its thread cannot be stopped."""
        version = self._loading.pop(number)
        version.set_unavailable("not needed any more")

    async def _load(self, version: Version) -> None:
        """Load a version, and put it into service if it is still needed."""
        number, loaded = version.number, None
        try:
            loaded = await self._load_in_turn(version)
            if self._loading.get(number) is version:
                loaded.engine.start()
                self._serve(version, loaded)
                loaded = None
        except Exception as error:  # an error in one version must not affect the others
            if self._loading.get(number) is version:
                self._note_failure(version, error)
        if self._loading.get(number) is version:
            del self._loading[number]
        self._update()
        if not version.ready:
            with suppress(RuntimeError, MemoryError):  # no memory for a thread
                if loaded is not None:
                    await loaded.engine.close()
                await run_in_background(malloc.trim)

    async def _load_in_turn(self, version: Version) -> LoadedVersion:
        """Load a version after those that were begun before, or beside one that takes long."""
        async with self._turn:
            load = asyncio.ensure_future(run_in_background(self._loader.load, version.directory.folder))
            try:
                await asyncio.wait([load], timeout=_TURN_SECONDS)
            except asyncio.CancelledError:
                load.cancel()
                raise
        return await load

    def _serve(self, version: Version, loaded: LoadedVersion) -> None:
        """Have a version take requests, in place of its older content."""
        old = self._versions.get(version.number)
        version.set_ready(loaded)
        self._versions[version.number] = version
        self._update_current()
        if old is not None and old is not version and old.ready:
            self._retire(old)

    def _note_failure(self, version: Version, error: Exception) -> None:
        """Keep the reason of a failed load, and when it is tried again."""
        expected = isinstance(error, LoadError | OSError | MemoryError)
        reason = str(error) if isinstance(error, LoadError) else f"cannot be loaded: {error}"
        entry, fingerprint = self._versions[version.number], version.directory.fingerprint
        again = entry.failed is not None and entry.failed.fingerprint == fingerprint
        attempts = 1 + (entry.failed.attempts if again and entry.failed is not None else 0)
        pause = min(_RETRY_SECONDS * 2 ** (attempts - 1), _MAX_RETRY_SECONDS)
        failed = LoadFailure(fingerprint, attempts, time.monotonic() + pause)
        if entry is version:
            version.set_unavailable(reason, failed)
        else:
            entry.failed, entry.reason = failed, f"an older content is served: {reason}"
        log.error(
            "%s version %d is not served, and tried again in %.0f s or when its files change: %s",
            self.name,
            version.number,
            pause,
            reason,
            exc_info=None if expected else error,
        )

    def retry(self) -> None:
        """Have the next `reconcile` load versions again that failed, or that are served without their TensorRT
        engine."""
        for version in self._versions.values():
            version.failed = None
            if version.loaded is not None and version.loaded.fallback_reason is not None:
                version.directory = VersionDir(version.directory.folder, ())

    def _retire(self, version: Version) -> None:
        version.set_unloading()
        self._update_current()
        self._unloading[version] = asyncio.create_task(self._unload(version))

    async def _unload(self, version: Version) -> None:
        try:
            await version.unused.wait()
            await version.engine.close()
            await run_in_background(malloc.trim)
        except Exception:  # a version that cannot be freed must not keep its entry
            log.exception("%s version %d was not freed", self.name, version.number)
        finally:
            del self._unloading[version]
            version.set_unavailable("unloaded")
            self._update_entries()
            self._changed()
        log.info("%s version %d is unloaded", self.name, version.number)

    async def close(self) -> None:
        """Finish the images that the engines accepted, then free everything. Loads are not waited for."""
        self.reconcile({}, self._policy)
        for load in self._loads:
            load.cancel()
        for version in self._unloading:
            version.unused.set()  # do not wait for requests that still hold a version
        await asyncio.gather(*self._unloading.values())

    def statuses(self) -> list[VersionStatus]:
        """Every version that is in the repository or in memory, oldest first."""
        return [self._versions[number].status() for number in sorted(self._versions)]
