"""The models that are in memory, if the memory of the service has a limit.

A model is loaded at its first request. If there is no room for it, the models that were not used for the longest time
leave, but none that is pinned, and none that was loaded a moment ago: otherwise a service with more models in use than
its memory has room for would do nothing but load. For the same reason, loads that others leave for take at most a tenth
of the time.

The memory of all processes is measured before each load, so requests, caches and wrong estimates count too.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from models import malloc
from service.core.errors import ModelNotLoaded, Unavailable
from service.core.process_memory import ServiceMemory
from service.core.settings import Settings
from service.core.threads import run_in_background
from service.registry.load_queue import NoRoom, Reserved
from service.registry.loader import Loader
from service.registry.model_versions import ModelVersions
from service.registry.repository import LoadError, VersionDir
from service.registry.residency.costs import Cost, Costs, peak_of_file
from service.telemetry.memory_metrics import MemoryMetrics
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_MIN_MARGIN = 4 << 20
_MARGIN_SHARE = 1 / 64
"""Part of the limit that models do not fill: requests change the memory between two measurements."""
_PAUSE_FACTOR = 9
"""Pause after a load that others left for, as a multiple of its time. It is at most the residence, because a load takes
long while requests need the CPUs."""
_WINDOW_SECONDS = 60.0
"""Time in which evictions are counted; more of them than models in memory are reported."""
_CHECK_SECONDS = 0.5
"""Time between two measurements."""
_MB = 1e6


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Limits, from the settings."""

    limit: int
    """Bytes of all processes."""
    residence: float
    """Seconds that a model stays in memory at least."""
    room_timeout: float
    """Longest wait of a load for room, in seconds."""


class Residency:
    """Keeps the memory of the service below its limit. On the event loop only.

    Args:
        limits: from the settings.
        models: all models by name, which change.
        costs: of the versions.
        measure: gives the resident memory of the service in bytes; called in threads.
        metrics: counts evictions.
    """

    def __init__(
        self,
        limits: MemoryLimits,
        models: Mapping[str, ModelVersions],
        costs: Costs,
        measure: Callable[[], int],
        metrics: MemoryMetrics,
    ) -> None:
        self._limits, self._models, self._costs, self._measure, self._metrics = limits, models, costs, measure, metrics
        self._usable = limits.limit - max(_MIN_MARGIN, round(limits.limit * _MARGIN_SHARE))
        self._resident = 0
        """Memory at the last measurement."""
        self._base: float = math.inf
        """Memory when no model was in it, or less if less was measured since: the service without models takes this."""
        self._reserved: dict[_Reservation, int] = {}
        self._next_eviction = -math.inf
        """Time before which no model leaves for another one, in `time.monotonic` seconds."""
        self._evictions: deque[float] = deque()
        """Times of the evictions in the last window."""
        self.free_spare: Callable[[], Awaitable[bool]] = _nothing_spare
        """Frees memory that no model needs; gives whether there was any."""
        metrics.watch(limits.limit, lambda: self._resident, lambda: len(self._loaded()))

    async def bring_in(self, model: ModelVersions, seconds: float) -> None:
        """Wait until a model is loaded; requests that come meanwhile wait for the same load.

        Raises:
            ModelNotLoaded: the wait would be longer than `seconds`, or there is no room.
            Unavailable: the model cannot be loaded.
        """
        if model.current is not None:
            return
        if (wait := self._expected_wait(model)) > seconds:
            raise ModelNotLoaded(f"model {model.name} is not loaded, and others that are in use take the memory", wait)
        joined, end = model.loading, time.monotonic() + seconds
        await self._load(model, seconds)
        if joined and model.refusal is not None:  # of an attempt that began before this request
            await self._load(model, end - time.monotonic())
        if model.ready:
            return
        if (refusal := model.refusal) is not None:
            raise ModelNotLoaded(f"model {model.name} is not loaded: {refusal}", refusal.seconds)
        if (reason := model.catalog().failure()) is not None:
            raise Unavailable(f"model {model.name} is not served: {reason}")
        raise ModelNotLoaded(f"model {model.name} was loaded, and has left memory again", 1)

    async def _load(self, model: ModelVersions, seconds: float) -> None:
        model.demand()
        try:
            async with asyncio.timeout(seconds):
                await model.settled()
        except TimeoutError:
            late = f"model {model.name} is being loaded, which takes longer than the time limit"
            raise ModelNotLoaded(late, 1) from None

    async def make(self, name: str, directory: VersionDir) -> Reserved:
        """Reserve the memory that a version takes while it is loaded; models leave for it.

        Raises:
            LoadError: the version takes more than the limit, or its manifest cannot be read.
            NoRoom: no model may leave in time.
        """
        cost = await run_in_background(self._costs.estimate, directory)
        await self._measured()
        self._check_possible(cost)
        end, evicted = time.monotonic() + self._limits.room_timeout, False
        while await self._measured() + sum(self._reserved.values()) + cost.peak > self._usable:
            now = time.monotonic()
            if unloading := [model for model in self._models.values() if model.unloads]:
                if not await unloading[0].unloads.wait(max(end - now, 0.0)):
                    raise NoRoom("requests still use the models that leave", self._limits.room_timeout)
                continue
            if await self.free_spare():
                continue
            leaving = self._leaving(name)
            free_at = max(leaving[0].loaded_at + self._limits.residence, self._next_eviction) if leaving else math.inf
            if free_at > end:
                raise NoRoom(_full_of(leaving), min(free_at - now, self._limits.residence + self._limits.room_timeout))
            if free_at > now:
                await asyncio.sleep(free_at - now)
            else:
                self._evict(leaving[0], f"to make room for {name}", "room")
                evicted = True
        reservation = _Reservation(self, name, directory, cost, evicted)
        self._reserved[reservation] = cost.peak
        return reservation

    async def has_room(self, file_bytes: int) -> bool:
        """Whether there is room for a file that is no model; no model leaves for it."""
        needed = sum(self._reserved.values()) + peak_of_file(file_bytes)
        return await self._measured() + needed <= self._usable

    async def relieve(self) -> float:
        """Measure the memory, and evict a model if requests have raised it above the limit. Returns the seconds until
        the next time."""
        await self._measured()
        now = time.monotonic()
        while self._evictions and self._evictions[0] < now - _WINDOW_SECONDS:
            self._evictions.popleft()
        if self._resident > self._limits.limit and await self.free_spare():
            await self._measured()
        if self._resident > self._limits.limit and (leaving := self._leaving()):
            self._evict(leaving[0], "because requests need its memory", "pressure")
            await leaving[0].unloads.wait(self._limits.room_timeout)
            await self._measured()
        return _CHECK_SECONDS

    def problems(self) -> list[str]:
        """A sentence if models leave and come back all the time."""
        if len(self._evictions) <= max(1, len(self._loaded())):
            return []
        return [
            f"{len(self._evictions)} models left memory in the last {_WINDOW_SECONDS:.0f} s, and {len(self._loaded())} "
            "are in it: requests wait for loads; raise memory_limit"
        ]

    async def settle(self, reservation: _Reservation, loaded: bool) -> None:
        """End a reservation, and learn from the memory that the load has taken."""
        alone = len(self._reserved) == 1
        try:
            await run_in_background(malloc.trim)
            after = await self._measured()
        finally:  # there may be no memory for a thread
            del self._reserved[reservation]
        took = time.monotonic() - reservation.began
        if reservation.evicted:
            self._next_eviction = time.monotonic() + min(_PAUSE_FACTOR * took, self._limits.residence)
        if loaded and alone:
            self._costs.learn(reservation.directory, reservation.cost, after - reservation.before)
        self._costs.keep_only({folder for model in self._models.values() for folder in model.folders})

    @property
    def resident(self) -> int:
        """Memory at the last measurement."""
        return self._resident

    async def _measured(self) -> int:
        self._resident = await run_in_background(self._measure)
        models = self._reserved or any(model.ready or model.unloads for model in self._models.values())
        self._base = min(self._base, self._resident) if models else self._resident
        return self._resident

    def _loaded(self) -> list[ModelVersions]:
        return [model for model in self._models.values() if model.current is not None]

    def _leaving(self, besides: str | None = None) -> list[ModelVersions]:
        """Models that may leave, in their order: those that were loaded a moment ago last; then by their last use."""
        fresh = time.monotonic() - self._limits.residence
        leaving = [model for model in self._loaded() if model.on_demand and not model.loading and model.name != besides]
        return sorted(leaving, key=lambda model: (max(model.loaded_at, fresh), model.last_used))

    def _check_possible(self, cost: Cost) -> None:
        """Check that a version would have room if all models left that may.

        Raises:
            LoadError: it would not.
        """
        pinned = [version.directory for model in self._loaded() if not model.on_demand for version in model.ready]
        others = self._base + self._costs.resident(pinned)
        if others + cost.peak > self._usable:
            raise LoadError(
                f"it takes about {cost.peak / _MB:.0f} MB while it is loaded, beside {others / _MB:.0f} MB of the "
                f"service and of pinned models, and memory_limit is {self._limits.limit / _MB:.0f} MB: raise it"
            )

    def _evict(self, model: ModelVersions, why: str, reason: str) -> None:
        """Begin to remove a model from memory, after its requests."""
        log.info("%s leaves memory %s: %.0f MB are used", model.name, why, self._resident / _MB)
        self._metrics.evictions[reason].inc()
        self._evictions.append(time.monotonic())
        model.evict()

    def _expected_wait(self, model: ModelVersions) -> float:
        """Seconds until the load of a model can begin, from what is known without its manifest."""
        if model.loading:
            return 0.0
        begun = [other for other in self._models.values() if other.loading]
        needed = [directory for other in (*begun, model) for directory in other.selected]
        if self._resident + self._costs.resident(needed) <= self._usable:
            return 0.0
        ahead = len(begun)
        now, leaving = time.monotonic(), self._leaving(model.name)
        if ahead >= len(leaving):
            return self._limits.residence if leaving or ahead else 0.0  # without any, `make` has the reason
        return max(leaving[ahead].loaded_at + self._limits.residence, self._next_eviction) - now


async def _nothing_spare() -> bool:
    return False


def _full_of(leaving: list[ModelVersions]) -> str:
    if not leaving:
        return "the models that take the memory are pinned or being loaded"
    return "the models that take the memory were loaded a moment ago"


class _Reservation:
    """Memory for one load."""

    def __init__(self, residency: Residency, name: str, directory: VersionDir, cost: Cost, evicted: bool) -> None:
        self.name, self.directory, self.cost, self.evicted = name, directory, cost, evicted
        self.before, self.began = residency.resident, time.monotonic()
        self._residency = residency

    async def settle(self, loaded: bool) -> None:
        """As `Reserved.settle`."""
        await self._residency.settle(self, loaded)


def limited(
    settings: Settings, models: Mapping[str, ModelVersions], loader: Loader, metrics: Metrics, root: int | None
) -> Residency | None:
    """The residency of a service; None if its memory has no limit.

    Args:
        settings: the limit.
        models: all models by name, which change.
        loader: describes versions.
        metrics: counts evictions.
        root: process that started all others; None for this one.
    """
    if settings.memory_limit is None:
        return None
    limits = MemoryLimits(settings.memory_limit, settings.min_residence_seconds, settings.timeout_ms / 1000)
    measure = ServiceMemory(os.getpid() if root is None else root).resident_bytes
    return Residency(limits, models, Costs(loader.footprint), measure, metrics.memory)
