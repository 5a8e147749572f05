"""One version of a model, with its state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from service.core.errors import Unavailable
from service.engine.engine import Engine
from service.messages.model import ServedModel
from service.messages.status import PlanStatus, VersionState, VersionStatus
from service.registry.repository import Fingerprint, VersionDir

NOT_LOADED = "not loaded: its first request loads it"
"""Reason of a version that is loaded on demand."""

_RETRY_SECONDS = 10.0
_MAX_RETRY_SECONDS = 600.0
"""Pause after a load that failed; it doubles with each attempt. Memory or file descriptors may be available again."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory, as the loader returns it."""

    served: ServedModel
    """The version as the answering side knows it."""
    engine: Engine
    plan_status: PlanStatus | None
    """State of its engine; None if none is needed and none was built."""
    fallback_reason: str | None = None
    """Why another runtime serves a version whose executor needs an engine."""
    awaits_engine: bool = False
    """Whether an engine that is built later would serve the version."""


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Content of a version's folder that could not be loaded. It is tried again when it changes, or later."""

    fingerprint: Fingerprint
    attempts: int
    retry_at: float
    """`time.monotonic` seconds."""

    def prevents(self, fingerprint: Fingerprint) -> bool:
        """Whether a content is not loaded now, because it has failed a moment ago."""
        return self.fingerprint == fingerprint and time.monotonic() < self.retry_at

    @property
    def pause(self) -> float:
        """Seconds from the last attempt to the next one."""
        return min(_RETRY_SECONDS * 2.0 ** (self.attempts - 1), _MAX_RETRY_SECONDS)

    @classmethod
    def after(cls, previous: LoadFailure | None, fingerprint: Fingerprint) -> LoadFailure:
        """The failure of an attempt that has just ended."""
        again = previous is not None and previous.fingerprint == fingerprint
        failed = cls(fingerprint, 1 + (previous.attempts if again and previous is not None else 0), 0.0)
        return replace(failed, retry_at=time.monotonic() + failed.pause)


@dataclass(eq=False, slots=True)
class Version:
    """One content of a version's folder. Used on the event loop only.

        UNAVAILABLE ──► LOADING ──► READY ──► UNLOADING ──► UNAVAILABLE
             ▲             │ fails
             └─────────────┘

    A folder whose content changes gets another object for the new content.
    """

    number: int
    directory: VersionDir
    state: VersionState = VersionState.UNAVAILABLE
    reason: str | None = None
    """Why the version is UNAVAILABLE or UNLOADING, or what limits it when it is READY."""
    failed: LoadFailure | None = None
    """The last attempt to load the version, if it failed."""
    loaded: LoadedVersion | None = None
    """Set in the states READY and UNLOADING."""
    users: int = 0
    """Requests that hold the version."""
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an UNLOADING version is not held any more."""

    @property
    def ready(self) -> bool:
        """Whether the version takes requests."""
        return self.state is VersionState.READY

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            Unavailable: the version is not in memory.
        """
        return self._loaded().engine

    @property
    def served(self) -> ServedModel:
        """The version as the answering side knows it; raises as `engine`."""
        return self._loaded().served

    def _loaded(self) -> LoadedVersion:
        if self.loaded is None:
            raise Unavailable(f"version {self.number} is not loaded: {self.reason}")
        return self.loaded

    def hold(self) -> None:
        """Count a request that the version is kept in memory for."""
        self.users += 1

    def release(self) -> None:
        """End one `hold`."""
        self.users -= 1
        if not self.users:
            self.unused.set()

    def set_loading(self) -> None:
        """Enter LOADING. The reason of an earlier failure stays."""
        self.state = VersionState.LOADING
        if self.failed is None:
            self.reason = None

    def set_ready(self, loaded: LoadedVersion) -> None:
        """Enter READY."""
        self.state, self.reason, self.failed, self.loaded = VersionState.READY, None, None, loaded

    def set_unavailable(self, reason: str, failed: LoadFailure | None = None) -> None:
        """Enter UNAVAILABLE, because of a failure if `failed` is given."""
        self.state, self.reason, self.failed, self.loaded = VersionState.UNAVAILABLE, reason, failed, None

    def note_failure(self, newer: Version, reason: str) -> LoadFailure:
        """Keep why the load of the version failed, or of a newer content while this one is served."""
        failed = LoadFailure.after(self.failed, newer.directory.fingerprint)
        if newer is self:
            self.set_unavailable(reason, failed)
        else:
            self.failed, self.reason = failed, f"an older content is served: {reason}"
        return failed

    def prepare_retry(self) -> None:
        """Have the version loaded again if its load has failed, or if it lacks its engine."""
        self.failed = None
        if self.loaded is not None and self.loaded.awaits_engine:
            self.directory = VersionDir(self.directory.folder, ())  # it equals no folder in the repository

    def set_unloading(self) -> None:
        """Enter UNLOADING."""
        self.state, self.reason = VersionState.UNLOADING, "requests are being finished"
        if self.users:
            self.unused.clear()
        else:
            self.unused.set()

    def status(self) -> VersionStatus:
        """The state and the reason, with the state of the engine."""
        state, reason = self.state, self.reason
        if self.ready:
            reason = "; ".join(self.engine.problems) or reason
            if not self.engine.alive:
                state, reason = VersionState.UNAVAILABLE, reason or "its engine has stopped"
        accuracy = None if self.loaded is None else self.served.accuracy
        return VersionStatus(version=str(self.number), state=state, reason=reason, accuracy=accuracy)


def update_entries(
    versions: dict[int, Version], found: Mapping[int, VersionDir], on_demand: AbstractSet[int], policy: str
) -> None:
    """Have an entry for every version in the repository, and none for one that is in neither place.

    Args:
        versions: the entries by number, which change.
        found: versions in the repository.
        on_demand: versions that requests load.
        policy: text of the version policy, for the reason of the others.
    """
    for number, version in list(versions.items()):
        if version.state is VersionState.UNAVAILABLE and number not in found:
            del versions[number]
    for number, directory in found.items():
        entry = versions.get(number)
        if entry is None or (entry.state is VersionState.UNAVAILABLE and entry.directory != directory):
            entry = versions[number] = Version(number, directory)
        if entry.state is VersionState.UNAVAILABLE and entry.failed is None:
            entry.reason = NOT_LOADED if number in on_demand else f"not chosen by the version policy: {policy}"


def choose_current(
    versions: Mapping[int, Version],
    loading: Container[int],
    weights: Mapping[int, float],
    previous: Version | None,
) -> Version | None:
    """The version that answers requests without a version: the newest one that is READY, or by the largest weight.

    While a version with a weight is awaited, no version takes its place; only the one that has answered continues.

    Args:
        versions: the entries by number.
        loading: numbers of versions that are being loaded.
        weights: of the traffic policy, by number; empty without one.
        previous: the version that has answered until now.
    """
    ready = {number: version for number, version in versions.items() if version.ready}
    if is_weight_awaited(versions, loading, weights):
        return None if previous is None else ready.get(previous.number)
    number = max(ready, key=lambda number: (weights.get(number, 0.0), number), default=None)
    return None if number is None else ready[number]


def is_weight_awaited(versions: Mapping[int, Version], loading: Container[int], weights: Mapping[int, float]) -> bool:
    """Whether no version with a weight takes requests, and one is being loaded that has not failed before; arguments
    are those of `choose_current`."""
    weighted = [versions[number] for number, weight in weights.items() if weight and number in versions]
    awaited = any(version.number in loading and version.failed is None for version in weighted)
    return awaited and not any(version.ready for version in weighted)
