"""The versions of one model: which take requests, and how one replaces another.

Every change happens on the event loop; only loading runs in a thread, while other versions take requests. A request
holds its version until its response, so a version can be retired at any time without an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from models import malloc
from service.core.threads import run_in_background
from service.core.version_policy import Policy
from service.messages.catalog import CatalogModel
from service.messages.status import VersionState, VersionStatus
from service.registry.load_queue import LoadQueue, NoRoom
from service.registry.repository import LoadError, VersionDir
from service.registry.unloads import Unloads
from service.registry.version import (
    NOT_LOADED,
    LoadedVersion,
    Version,
    choose_current,
    is_weight_awaited,
    update_entries,
)

log = logging.getLogger(__name__)


class ModelVersions:
    """The versions of a model that are in the repository or in memory.

    Args:
        name: name of the model.
        loads: loads the versions of all models.
        changed: called after every change of what `catalog` returns.
        on_demand: whether versions are loaded only when `demand` is called, and leave when `evict` is.
    """

    def __init__(
        self, name: str, loads: LoadQueue, changed: Callable[[], None] = lambda: None, on_demand: bool = False
    ) -> None:
        self.name = name
        self.on_demand = on_demand
        self.loaded_at = 0.0
        """Time of the last load, in `time.monotonic` seconds."""
        self.refusal: NoRoom | None = None
        """Why the last load had no room."""
        self.current: Version | None = None
        """The version that answers requests without a version: as `choose_current`."""
        self._wanted = not on_demand
        """Whether the model is to be in memory."""
        self._queue = loads
        self._changed = changed
        self._catalog: CatalogModel | None = None
        """None after a change."""
        self._versions: dict[int, Version] = {}
        self._found: Mapping[int, VersionDir] = {}
        self._policy = Policy("latest")
        self._loading: dict[int, Version] = {}
        """The content of each version that is loaded now; an older content may take requests meanwhile."""
        self._loads: set[asyncio.Task[None]] = set()
        """Tasks of these, and of loads that are not needed any more."""
        self._settled = asyncio.Event()
        """Set while no version is loaded."""
        self.unloads = Unloads(name, self._note_freed)

    @property
    def ready(self) -> list[Version]:
        """Versions that take requests, oldest first."""
        return [self._versions[number] for number in sorted(self._versions) if self._versions[number].ready]

    @property
    def last_used(self) -> float:
        """Time of the last answer, in `time.monotonic` seconds; 0 if there was none since the model was loaded."""
        return max((version.engine.statistics.last_used for version in self.ready), default=0.0)

    @property
    def folders(self) -> set[Path]:
        """Folders of the versions that are in the repository or in memory."""
        return {version.directory.folder for version in self._versions.values()}

    @property
    def empty(self) -> bool:
        """Whether no version is in the repository or in memory."""
        return not (self._found or self._versions or self._loads or self.unloads)

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded."""
        return bool(self._loading)

    def catalog(self) -> CatalogModel:
        """The model, as requests see it."""
        if self._catalog is None:
            self._catalog = self._make_catalog()
        return self._catalog

    def _make_catalog(self) -> CatalogModel:
        awaited = self._policy.candidates(self._found) if self.on_demand and self.current is None else ()
        failures = {number: each.reason or "" for number, each in sorted(self._versions.items()) if each.failed}
        return CatalogModel(
            name=self.name,
            current=None if self.current is None else self.current.served,
            versions={version.number: version.served for version in self.ready},
            failures=failures,
            loading=frozenset(self._loading),
            on_demand=frozenset(awaited).difference(version.number for version in self.ready),
            traffic=self._policy.traffic,
        )

    @property
    def found(self) -> Mapping[int, VersionDir]:
        """Versions in the repository."""
        return self._found

    @property
    def selected(self) -> list[VersionDir]:
        """Versions that are loaded together, unless a load fails."""
        numbers = self._policy.candidates(self._found)
        return [self._found[number] for number in (numbers[:1] if self._policy.serves_one else numbers)]

    def reconcile(self, found: Mapping[int, VersionDir], policy: Policy) -> None:
        """Begin to load the versions that the policy selects from the repository, and retire the others.

        If none of the selected versions can be loaded, the versions that took requests continue.
        """
        same = found == self._found and policy == self._policy and self._settled.is_set()
        if same and all(version.failed is None for version in self._versions.values()):
            return
        self._found, self._policy = found, policy
        self._update()

    async def settled(self) -> None:
        """Wait until no version is being loaded."""
        await self._settled.wait()

    def _update(self) -> None:
        """Begin the loads that are due, and retire the versions that are not needed any more."""
        candidates = self._policy.candidates(self._found) if self._wanted else []
        for number in self._loading.keys() - set(candidates):
            self._drop_load(number)
        self._update_entries()
        kept = self._begin_loads(candidates)
        awaited = is_weight_awaited(self._versions, self._loading, self._policy.weights)
        if (kept and not awaited) or not candidates:
            for version in self.ready:
                if version.number not in kept:
                    self._retire(version)
        self._update_entries()
        if self._loading:
            self._settled.clear()
        else:
            self._settled.set()
            if self.on_demand and not kept:
                self._wanted = False  # after a failure, the next request tries again
        self._update_current()

    def _begin_loads(self, candidates: Sequence[int]) -> set[int]:
        """Begin the loads that are due. Returns the candidates that take requests.

        With the policy `latest`, an older version is not loaded while a newer one is.
        """
        kept = set()
        newer_loads = False
        for number in candidates:
            if not (newer_loads and self._policy.serves_one):
                self._ensure_loaded(number)
            if number in self._loading:
                newer_loads = True
            if self._versions[number].ready:
                kept.add(number)
                if self._policy.serves_one:
                    break
        return kept

    def _update_entries(self) -> None:
        demanded = frozenset(self._policy.candidates(self._found)) if self.on_demand else frozenset()
        update_entries(self._versions, self._found, demanded, self._policy.text)

    def _update_current(self) -> None:
        self.current = choose_current(self._versions, self._loading, self._policy.weights, self.current)
        self._mark_changed()

    def _ensure_loaded(self, number: int) -> None:
        """Begin to load the content that a version has in the repository, unless this is done or has failed."""
        version, directory = self._versions[number], self._found[number]
        loading = self._loading.get(number)
        if loading is not None and loading.directory == directory:
            return
        if version.ready and version.directory.fingerprint == directory.fingerprint:
            version.reason = version.failed = None
            return
        if version.failed is not None and version.failed.prevents(directory.fingerprint):
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
        if self._versions.get(number) is version:  # the next load must not be taken for this one
            self._versions[number] = Version(number, version.directory, reason=version.reason)

    async def _load(self, version: Version) -> None:
        """Load a version, and put it into service if it is still needed."""
        number, loaded = version.number, None
        try:
            loaded = await self._queue.load(self.name, version.directory)
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
        if loaded is not None or not version.ready:
            with suppress(RuntimeError, MemoryError):  # no memory for a thread
                if loaded is not None:
                    await loaded.engine.close()
                await run_in_background(malloc.trim)

    def _serve(self, version: Version, loaded: LoadedVersion) -> None:
        """Have a version take requests, in place of its older content."""
        old = self._versions.get(version.number)
        version.set_ready(loaded)
        self.loaded_at = time.monotonic()
        self._versions[version.number] = version
        self._update_current()
        if old is not None and old is not version and old.ready:
            self._retire(old)

    def _note_failure(self, version: Version, error: Exception) -> None:
        """Keep the reason of a failed load, and when it is tried again: if it lacked room, at the next request."""
        if isinstance(error, NoRoom) and self.on_demand and not self.ready:
            self.refusal, self._wanted = error, False
            version.set_unavailable(NOT_LOADED)
            return
        reason = str(error) if isinstance(error, LoadError) else f"cannot be loaded: {error}"
        failed = self._versions[version.number].note_failure(version, reason)
        log.error(
            "%s version %d is not served, and tried again in %.0f s or when its files change: %s",
            *(self.name, version.number, failed.pause, reason),
            exc_info=None if isinstance(error, LoadError | OSError | MemoryError) else error,
        )

    def demand(self) -> None:
        """Load the model if it is not in memory, and the last attempt did not fail a moment ago."""
        self.refusal, self._wanted = None, True
        self._update()

    def evict(self) -> None:
        """Begin to free the memory of the model, after its requests."""
        self._wanted = False
        self._update()

    def retry(self) -> None:
        """Have the next `reconcile` load versions again that failed, or that lack their engine."""
        self._settled.clear()
        for version in self._versions.values():
            version.prepare_retry()

    def _mark_changed(self) -> None:
        self._catalog = None
        self._changed()

    def _retire(self, version: Version) -> None:
        self.unloads.begin(version)
        self._update_current()

    def _note_freed(self) -> None:
        self._update_entries()
        self._mark_changed()

    async def close(self) -> None:
        """Finish the images that the engines accepted, then free everything. Loads are not waited for."""
        self.reconcile({}, self._policy)
        for load in self._loads:
            load.cancel()
        await self.unloads.finish()

    def statuses(self) -> list[VersionStatus]:
        """Every version that is in the repository or in memory, oldest first."""
        return [self._versions[number].status() for number in sorted(self._versions)]
