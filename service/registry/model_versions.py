"""The versions of one model: which take requests, and how one replaces another.

Every change happens on the event loop; only loading runs in a thread, while other versions take requests. A request
holds its version until its response, so a version can be retired at any time without an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from service.core import malloc
from service.core.threads import run_in_background
from service.core.version_policy import Policy
from service.messages.status import VersionState, VersionStatus
from service.registry.loader import Loader
from service.registry.repository import LoadError, VersionDir
from service.registry.version import Version

log = logging.getLogger(__name__)


class ModelVersions:
    """The versions of a model that are in the repository or in memory.

    Args:
        name: name of the model.
        loader: loads a version, in a thread.
    """

    def __init__(self, name: str, loader: Loader) -> None:
        self.name = name
        self.current: Version | None = None
        """The newest version that is READY: it answers requests without a version."""
        self._loader = loader
        self._versions: dict[int, Version] = {}
        self._found: Mapping[int, VersionDir] = {}
        self._policy = Policy("latest")
        self._unloading: dict[Version, asyncio.Task[None]] = {}

    @property
    def ready(self) -> list[Version]:
        """Versions that take requests, oldest first."""
        return [self._versions[number] for number in sorted(self._versions) if self._versions[number].ready]

    @property
    def empty(self) -> bool:
        """Whether no version is in the repository or in memory."""
        return not (self._found or self._versions or self._unloading)

    def find(self, number: int | None = None) -> Version | None:
        """A version that takes requests, or the current one; None if there is none."""
        if number is None:
            return self.current
        version = self._versions.get(number)
        return version if version is not None and version.ready else None

    def is_loading(self, number: int | None = None) -> bool:
        """Whether a version, or any version, is being loaded."""
        return any(
            version.state is VersionState.LOADING
            for version in self._versions.values()
            if number in (None, version.number)
        )

    def failure(self, number: int | None = None) -> str | None:
        """Why a version, or the newest that failed, could not be loaded."""
        failed = [version for version in self._versions.values() if version.failed is not None]
        chosen = [version for version in failed if number in (None, version.number)]
        return max(chosen, key=lambda version: version.number).reason if chosen else None

    async def reconcile(self, found: Mapping[int, VersionDir], policy: Policy) -> None:
        """Load the versions that the policy selects from the repository, then retire the others.

        If none of the selected versions can be loaded, the versions that took requests continue.
        """
        self._found, self._policy = found, policy
        self._update_entries()
        candidates = policy.candidates(found)
        kept = set()
        for number in candidates:
            if await self._ensure_ready(number):
                kept.add(number)
                if policy.one:
                    break
        if kept or not candidates:
            for version in self.ready:
                if version.number not in kept:
                    self._retire(version)
        self._update_entries()

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
        self.current = max(self.ready, key=lambda version: version.number, default=None)

    async def _ensure_ready(self, number: int) -> bool:
        """Load the content that a version has in the repository; whether the version takes requests."""
        version, directory = self._versions[number], self._found[number]
        if version.failed == directory.fingerprint:
            return version.ready
        if version.ready and version.directory.fingerprint == directory.fingerprint:
            version.reason = version.failed = None
            return True
        if version.ready:
            return await self._replace(version, directory)
        if version.state is VersionState.UNLOADING:
            version = self._versions[number] = Version(number, directory)
        return await self._load(version) is None

    async def _replace(self, old: Version, directory: VersionDir) -> bool:
        """Load the new content of a version that takes requests. If this fails, the old content continues."""
        new = Version(old.number, directory)
        reason = await self._load(new)
        if reason is None:
            self._versions[old.number] = new
            self._retire(old)
        else:
            old.failed, old.reason = directory.fingerprint, f"an older content is served: {reason}"
        return True

    async def _load(self, version: Version) -> str | None:
        """Load a version. Returns the reason if this fails."""
        version.state, version.reason = VersionState.LOADING, None
        try:
            loaded = await run_in_background(self._loader.load, version.directory.folder)
        except Exception as error:  # an error in one version must not affect the others
            expected = isinstance(error, LoadError)
            reason = str(error) if expected else f"cannot be loaded: {error}"
            log.error(
                "%s version %d is not served: %s",
                self.name,
                version.number,
                reason,
                exc_info=None if expected else error,
            )
            version.set_unavailable(reason, failed=version.directory.fingerprint)
            await asyncio.to_thread(malloc.trim)
            return reason
        loaded.engine.start()
        version.set_ready(loaded)
        self._update_current()
        return None

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
            await asyncio.to_thread(malloc.trim)
        except Exception:  # a version that cannot be freed must not keep its entry
            log.exception("%s version %d was not freed", self.name, version.number)
        finally:
            del self._unloading[version]
            version.set_unavailable("unloaded")
            self._update_entries()
        log.info("%s version %d is unloaded", self.name, version.number)

    async def close(self) -> None:
        """Finish the images that the engines accepted, then free everything."""
        for version in self.ready:
            self._retire(version)
        for version in self._unloading:
            version.unused.set()  # do not wait for requests that still hold a version
        await asyncio.gather(*self._unloading.values())

    def statuses(self) -> list[VersionStatus]:
        """Every version that is in the repository or in memory, oldest first."""
        return [self._versions[number].status() for number in sorted(self._versions)]
