"""The models of a repository, loaded, and kept up to date with the repository while they take requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from functools import partial

from models.artifact.traffic import TrafficPolicy
from models.imaging.preprocess import Preprocess
from service.core.errors import Unavailable
from service.core.settings import Settings
from service.core.settings.values import split_names
from service.core.version_policy import Policy
from service.messages.catalog import Catalog
from service.messages.inference import InferenceRequest, InferenceResult, ResultReceiver
from service.messages.lesion import LesionRequest
from service.messages.model import ServedModel
from service.messages.status import DifferingImage, ModelStatus, PlanStatus, ShadowStatus, VersionStatus
from service.registry import health
from service.registry.lesions import Lesions
from service.registry.load_queue import LoadQueue
from service.registry.loader import Loader
from service.registry.model_versions import ModelVersions
from service.registry.periodic import repeat
from service.registry.repository import VersionDir
from service.registry.repository_reader import RepositoryReader
from service.registry.residency.residency import Residency, limited
from service.registry.rollout.policies import Policies
from service.registry.rollout.rules import Rollouts
from service.registry.rollout.shadows import Shadows
from service.registry.version import Version
from service.telemetry.metrics import Metrics
from service.telemetry.statistics import Statistics

log = logging.getLogger(__name__)

LOADING = "loading and warming up"
"""The reason of a service that will be ready by itself; any other reason needs an action."""

_CHECK_SECONDS = 1.0
_CLOSE_SECONDS = 1.0

_UNLOADED = Policy("unloaded", frozenset())


class Registry:
    """The models of a repository, each with the versions that its policy selects. Used on the event loop only.

    Args:
        settings: the repository, and how its versions are loaded.
        metrics: shows the versions, queues and devices.
        root: process that started all others of the service; None for this one. `memory_limit` bounds their memory.
    """

    def __init__(self, settings: Settings, metrics: Metrics, root: int | None = None) -> None:
        self.draining = False
        self._loading = True
        """Whether the models are still loaded for the first time."""
        self._catalog: Catalog | None = None
        """The catalog; None after a change."""
        self._observers: list[Callable[[], None]] = []
        self._settings = settings
        self._policies = Policies(settings.versions, settings.traffic)
        loader = Loader(settings, metrics)
        self._models: dict[str, ModelVersions] = {}
        self._residency: Residency | None = limited(settings, self._models, loader, metrics, root)
        """Decides which models are in memory; None without a limit of memory."""
        self._loads = LoadQueue(loader, self._residency)
        self._pinned = set(split_names(settings.pin))
        self._served: dict[int, Version] = {}
        """Versions that take requests, by key, as in the catalog."""
        self._held: dict[int, Version] = {}
        """Versions that requests hold, by key."""
        self._unloaded: set[str] = set()
        self._default: str | None = None
        self._reader = RepositoryReader(settings, metrics)
        self._reading = asyncio.Lock()
        self._was_read = False
        self._stop = asyncio.Event()
        self._shadows = Shadows(self._models, self._policies, metrics)
        self._lesions = Lesions(settings.repository_folder, partial(health.engines, self._models), self._residency)
        self._rollouts = Rollouts(self._models, self._policies, self._shadows, self._read)
        metrics.watch_versions(lambda: health.served(self.catalog))
        metrics.watch_models(partial(health.figures, self._models))

    async def start(self, prepare: Callable[[list[Preprocess]], Awaitable[None]] | None = None) -> None:
        """Load and warm up every model. A version that fails has the reason in its status.

        Args:
            prepare: awaited before the service is ready; called with the preprocessing of the models.
        """
        try:
            await self.refresh()
            if prepare is not None:
                await prepare([model.preprocess for model in self.catalog.current().values()])
        finally:
            self._loading = False
            self._mark_changed()
        if reasons := self._reasons():
            log.warning("not ready: %s", "; ".join(reasons))
        else:
            log.info("ready")

    async def watch(self) -> None:
        """Apply changes of the repository after the first read, and detect stalled batches, until `close`."""
        await asyncio.gather(
            repeat(self._apply_changes, _CHECK_SECONDS, self._stop),
            repeat(partial(health.check_progress, self._models), _CHECK_SECONDS, self._stop),
            repeat(self._rollouts.check, _CHECK_SECONDS, self._stop),
            *([] if self._residency is None else [repeat(self._residency.relieve, _CHECK_SECONDS, self._stop)]),
        )

    async def _apply_changes(self) -> float:
        if self._was_read and self._settings.watch != "off":
            await self._read()
        return self._reader.pause

    async def close(self) -> None:
        """Finish accepted requests for a second at most, then free everything; the process ends stalled batches."""
        self.draining = True
        self._mark_changed()
        self._stop.set()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(self._loads.end(), *(model.close() for model in self._models.values()))
        except TimeoutError:
            log.error("a batch or a load does not end; the process does not wait for it")

    async def refresh(self) -> None:
        """Read the repository, and wait until new versions are loaded, or failed again, and removed ones retired."""
        await self._read()
        await asyncio.gather(*(model.settled() for model in self._models.values()))

    async def _read(self, now: bool = False) -> None:
        """Read the repository, begin to load new versions, and retire removed ones. `now` is that of the reader."""
        async with self._reading:
            await self._policies.refresh()
            found = await self._reader.read(now)
            self._was_read = True
            self._mark_changed()
            for name in sorted(found.keys() | self._models.keys()):
                if not self.draining:
                    self._reconcile(name, found.get(name, {}))

    def _reconcile(self, name: str, found: Mapping[int, VersionDir]) -> None:
        model = self._models.get(name)
        if model is None:
            on_demand = self._residency is not None and name not in self._pinned
            model = self._models[name] = ModelVersions(name, self._loads, self._mark_changed, on_demand)
        model.reconcile(found, _UNLOADED if name in self._unloaded else self._policies.of(name))
        if model.empty:
            del self._models[name]
            self._mark_changed()

    def observe(self, changed: Callable[[], None]) -> None:
        """Call a function after every change of the catalog."""
        self._observers.append(changed)

    def _mark_changed(self) -> None:
        self._catalog = None
        for changed in self._observers:
            changed()

    @property
    def catalog(self) -> Catalog:
        """The versions that are served now."""
        if self._catalog is None:
            models = {name: self._models[name].catalog() for name in sorted(self._models)}
            self._served = {each.served.key: each for model in self._models.values() for each in model.ready}
            self._default = self._settings.model or health.choose_default(models, self._default)
            self._catalog = Catalog(
                models=models,
                default=self._default,
                loading=self._loading,
                not_ready="; ".join(self._reasons()),
            )
        return self._catalog

    async def plan_status(self, key: int) -> PlanStatus | None:
        """As `Backend.plan_status`."""
        loaded = self._by_key(key).loaded
        return None if loaded is None else loaded.plan_status

    async def demand(self, name: str, seconds: float) -> None:
        """As `Backend.demand`."""
        if self.draining:
            raise Unavailable("shutting down")
        if name not in self._models or self._residency is None:
            raise self.catalog.not_found(name)
        await self._residency.bring_in(self._models[name], seconds)

    async def load(self, name: str) -> None:
        """As `Backend.load`; raises Unavailable if a version that should be served cannot be loaded."""
        self._unloaded.discard(name)
        if name in self._models:
            self._models[name].retry()
        await self._read(now=True)
        if name not in self._models:
            raise self.catalog.not_found(name)
        if self._residency is not None:
            self._models[name].on_demand = False  # it stays in memory
            self._models[name].demand()
        await self._models[name].settled()
        if reason := self._models[name].catalog().failure():
            raise Unavailable(f"model {name} could not be loaded: {reason}")

    async def unload(self, name: str) -> None:
        """As `Backend.unload`: not even a new version is served."""
        self._find(name)
        self._unloaded.add(name)
        await self._read()

    async def set_traffic(self, name: str, policy: TrafficPolicy | None) -> None:
        """As `Backend.set_traffic`."""
        model = self._find(name)
        await self._policies.set_traffic(model, policy)
        await self._read()
        await model.settled()

    def _find(self, name: str) -> ModelVersions:
        if name not in self._models:
            raise self.catalog.not_found(name)
        return self._models[name]

    def _by_key(self, key: int) -> Version:
        return self._held.get(key) or self._served[key]

    async def statistics(self, key: int) -> Statistics:
        """Counts of a version since it was loaded."""
        return deepcopy(self._by_key(key).engine.statistics)

    async def versions(self, name: str) -> list[VersionStatus]:
        """As `Backend.versions`."""
        return self._find(name).statuses()

    async def statuses(self) -> list[ModelStatus]:
        """As `Backend.statuses`."""
        return [ModelStatus(name=name, versions=self._models[name].statuses()) for name in sorted(self._models)]

    def hold(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """As `Catalog.find`; the version is not freed before `release` was called, once per call of `hold`."""
        model = self.catalog.find(name, version)
        held = self._held[model.key] = self._by_key(model.key)
        held.hold()
        return model

    def release(self, key: int) -> None:
        """End one `hold` of a version."""
        held = self._held[key]
        held.release()
        if not held.users:
            del self._held[key]

    async def submit(self, key: int, request: InferenceRequest) -> InferenceResult:
        """As `Backend.submit`."""
        version = self._held[key]
        result = await version.engine.submit(request)
        self._shadows.compare(version, request, result)
        return result

    def begin(self, key: int, request: InferenceRequest, outcome: ResultReceiver) -> Callable[[], None]:
        """As `LocalBackend.begin`."""
        version = self._held[key]
        engine, watched = version.engine, self._shadows.watch(version, request, outcome)
        return partial(engine.cancel, engine.begin(request, watched))

    async def lesion(self, key: int, request: LesionRequest) -> InferenceResult:
        """As `Backend.lesion`."""
        return await self._lesions.compute(self._held[key], request)

    async def shadows(self, name: str) -> list[ShadowStatus]:
        """As `Backend.shadows`."""
        return self._shadows.statuses(name)

    async def differing(self, name: str) -> list[DifferingImage]:
        """As `Backend.differing`."""
        return await self._shadows.differing(name)

    def count_refused(self, key: int) -> None:
        """As `Backend.count_refused`."""
        self._held[key].engine.statistics.failed(0.0)

    async def not_ready(self) -> list[str]:
        """As `Backend.not_ready`."""
        return self._reasons()

    def _reasons(self) -> list[str]:
        if self.draining:
            return ["shutting down"]
        none = self._reader.problems() or health.nothing_served(self._settings.repository, self._models, self._unloaded)
        return [LOADING] if self._loading else health.reasons(self._models, none)

    async def degraded(self) -> list[str]:
        """Limitations of a service that is ready: as `health.limits`, policies, and folders that cannot be read."""
        memory = [] if self._residency is None else self._residency.problems()
        policies = self._policies.problems(self._models)
        return self._reader.problems() + policies + health.limits(health.current(self._models)) + memory
