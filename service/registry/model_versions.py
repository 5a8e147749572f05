"""The versions of one model: which are served, and how one takes over from another.

    found ──load, check, warm up──► served ──no longer wanted──► draining ──last request answered──► freed
              └─ fails: the reason is kept, and it is tried again when its files change

All of it happens on the event loop; only loading runs in a thread, beside what serves. A request holds the version
that it is answered by, so that one can be taken away at any time and no request is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.core import malloc
from service.core.threads import run_in_background
from service.core.version_policy import Policy
from service.messages.status import State, VersionStatus
from service.registry.repository import Fingerprint, LoadedModel, LoadError, VersionDir

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class VersionHandle:
    """A version that takes requests."""

    model: LoadedModel
    stamp: Fingerprint
    users: int = 0
    """Requests that are being answered."""
    unused: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Failure:
    stamp: Fingerprint
    reason: str


class ModelVersions:
    """What is known of the versions of a model.

    Args:
        name: of the model.
        load: loads a version's folder, in a thread, given what serves meanwhile; raises LoadError.
    """

    def __init__(self, name: str, load: Callable[[Path, LoadedModel | None], LoadedModel]) -> None:
        self.name = name
        self._load = load
        self._found: Mapping[int, VersionDir] = {}
        self._policy = Policy("latest")
        self._served: dict[int, VersionHandle] = {}
        self._failed: dict[int, _Failure] = {}
        self._loading: int | None = None
        self._draining: dict[VersionHandle, asyncio.Task[None]] = {}

    @property
    def served(self) -> list[LoadedModel]:
        """Versions that take requests, oldest first."""
        return [self._served[number].model for number in sorted(self._served)]

    @property
    def current(self) -> LoadedModel | None:
        """The version that answers those who name none."""
        served = self.find()
        return None if served is None else served.model

    @property
    def empty(self) -> bool:
        """Whether nothing is left of the model, on disk or in memory."""
        return not (self._found or self._served or self._draining)

    def is_loading(self, number: int | None = None) -> bool:
        """Whether a version, or any, is being loaded."""
        return self._loading is not None and number in (None, self._loading)

    def reason(self, number: int | None = None) -> str | None:
        """Why a version, or the newest that failed, is not served."""
        failure = self._failed.get(max(self._failed, default=0) if number is None else number)
        return None if failure is None else failure.reason

    def find(self, number: int | None = None) -> VersionHandle | None:
        """A version, or the current one; None if it is not served."""
        return self._served.get(max(self._served, default=0) if number is None else number)

    async def follow(self, found: Mapping[int, VersionDir], policy: Policy) -> None:
        """Serve what the policy chooses of what was found, and retire the rest once that is served.

        While none of the versions to be served can be, those that were go on.
        """
        self._found, self._policy = found, policy
        self._failed = {number: failure for number, failure in self._failed.items() if number in found}
        candidates = policy.candidates(found)
        kept = set()
        for number in candidates:
            if await self._ensure(number, found[number]):
                kept.add(number)
                if policy.one:
                    break
        if kept or not candidates:
            for number in self._served.keys() - kept:
                self._retire(self._served.pop(number))

    async def _ensure(self, number: int, found: VersionDir) -> bool:
        """Have a version served as its files are now; whether it is served at all."""
        served, failure = self._served.get(number), self._failed.get(number)
        if served is not None and served.stamp == found.stamp:
            return True
        if failure is None or failure.stamp != found.stamp:
            served = await self._take_over(number, found, served)
        return served is not None

    async def _take_over(self, number: int, found: VersionDir, old: VersionHandle | None) -> VersionHandle | None:
        self._loading, model = number, None
        try:
            model = await run_in_background(self._load, found.folder, self.current)
        except Exception as error:  # whatever is wrong with one version must not stop the others
            self._fail(number, found.stamp, error)
        finally:
            self._loading = None
        if model is None:
            await asyncio.to_thread(malloc.trim)
            return old
        model.engine.start()
        self._failed.pop(number, None)
        served = self._served[number] = VersionHandle(model, found.stamp)
        if old is not None:
            self._retire(old)
        return served

    def _fail(self, number: int, stamp: Fingerprint, error: Exception) -> None:
        expected = isinstance(error, LoadError)
        reason = str(error) if expected else f"cannot be loaded: {error}"
        log.error("%s version %d is not served: %s", self.name, number, reason, exc_info=None if expected else error)
        self._failed[number] = _Failure(stamp, reason)

    def forget_failures(self) -> None:
        """Try again what failed, though its files are the same."""
        self._failed.clear()

    def mark_stale(self, number: int) -> None:
        """Have a version loaded again by the next `follow`, though its files are the same."""
        if served := self._served.get(number):
            served.stamp = ()

    def _retire(self, served: VersionHandle) -> None:
        served.unused.clear()
        self._draining[served] = asyncio.create_task(self._drain(served))

    async def _drain(self, served: VersionHandle) -> None:
        try:
            if served.users:
                await served.unused.wait()
            await served.model.engine.close()
            await asyncio.to_thread(malloc.trim)
        except Exception:  # what cannot be freed must not keep its place in the index
            log.exception("%s version %s was not freed", self.name, served.model.version)
        finally:
            del self._draining[served]
        log.info("%s version %s is unloaded", self.name, served.model.version)

    async def close(self) -> None:
        """Finish what the engines have accepted, then free everything."""
        for number in list(self._served):
            self._retire(self._served.pop(number))
        for served in self._draining:
            served.unused.set()  # who still holds one now has been given up
        await asyncio.gather(*self._draining.values())

    def statuses(self) -> list[VersionStatus]:
        """Every version that is in the repository or in memory, oldest first."""
        draining = {int(served.model.version) for served in self._draining}
        numbers = self._found.keys() | self._served.keys() | draining
        return [self._status(number, number in draining) for number in sorted(numbers)]

    def _status(self, number: int, draining: bool) -> VersionStatus:
        served, failure = self._served.get(number), self._failed.get(number)
        state: State
        if served is not None:
            state, reason = "READY", "" if failure is None else f"an older content is served: {failure.reason}"
            if lost := served.model.engine.lost:
                reason = "; ".join(lost)
            if not served.model.engine.alive:
                state, reason = "UNAVAILABLE", reason or "its engine has stopped"
        elif number == self._loading:
            state, reason = "LOADING", ""
        elif draining:
            state, reason = "UNLOADING", "requests are being finished"
        elif failure is not None:
            state, reason = "UNAVAILABLE", failure.reason
        else:
            state, reason = "UNAVAILABLE", f"not chosen by the version policy: {self._policy.text}"
        return VersionStatus(
            version=str(number),
            state=state,
            reason=reason or None,
            accuracy=None if served is None else served.model.artifact.accuracy,
        )
