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
from service.core.version_policy import Policy
from service.messages.catalog import Catalog
from service.messages.inference import InferenceRequest, InferenceResult, ResultReceiver
from service.messages.model import ServedModel
from service.messages.status import ModelStatus, PlanStatus, VersionStatus
from service.registry import health
from service.registry.loader import Loader
from service.registry.model_versions import ModelVersions
from service.registry.periodic import repeat
from service.registry.policies import Policies
from service.registry.repository import VersionDir
from service.registry.repository_reader import RepositoryReader
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
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.draining = False
        self._loading = True
        """Whether the models are still loaded for the first time."""
        self._catalog: Catalog | None = None
        """The catalog; None after a change."""
        self._observers: list[Callable[[], None]] = []
        self._settings = settings
        self._metrics = metrics
        self._policies = Policies(settings.versions, settings.traffic)
        self._loader = Loader(settings, metrics)
        self._models: dict[str, ModelVersions] = {}
        self._held: dict[int, Version] = {}
        """Versions that requests hold, by key."""
        self._unloaded: set[str] = set()
        self._default: str | None = None
        self._reader = RepositoryReader(settings, metrics)
        self._reading = asyncio.Lock()
        self._was_read = False
        self._turn = asyncio.Lock()
        """Held by the load that has begun last."""
        self._stop = asyncio.Event()
        metrics.watch_versions(self._served_versions)

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
        if self.draining:
            return
        if reasons := self._reasons():
            log.warning("not ready: %s", "; ".join(reasons))
        else:
            log.info("ready")

    async def watch(self) -> None:
        """Apply changes of the repository after the first read, and detect stalled batches, until `close`."""
        await asyncio.gather(
            repeat(self._apply_changes, _CHECK_SECONDS, self._stop),
            repeat(self._check_progress, _CHECK_SECONDS, self._stop),
        )

    async def _apply_changes(self) -> float:
        if self._was_read and self._settings.watch != "off":
            await self._read()
        return self._reader.pause

    async def _check_progress(self) -> float:
        for model in self._models.values():
            for version in model.ready:
                version.engine.check_progress()
        return _CHECK_SECONDS

    async def close(self) -> None:
        """Finish the requests that were accepted, then free everything. Waits for a second at most: whatever still runs
        then, such as a stalled batch, ends with the process."""
        self.draining = True
        self._mark_changed()
        self._stop.set()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(model.close() for model in self._models.values()))
        except TimeoutError:
            log.error("a batch does not end; the process does not wait for it")

    async def refresh(self) -> None:
        """Read the repository, and wait until new versions are loaded and removed ones retired. A version that failed
        is tried again when its files change, or after some time."""
        await self._read()
        await asyncio.gather(*(model.settled() for model in self._models.values()))

    async def _read(self, now: bool = False) -> None:
        """Read the repository, begin to load new versions, and retire removed ones. `now` is that of the reader."""
        async with self._reading:
            await self._policies.refresh()
            contents = await self._reader.read(now)
            self._was_read = True
            self._mark_changed()
            if contents is None:  # loaded versions continue: a file system may be missing for a moment
                return
            for name in sorted(contents.versions.keys() | self._models.keys() - contents.unreadable.keys()):
                if not self.draining:
                    self._reconcile(name, contents.versions.get(name, {}))

    def _reconcile(self, name: str, found: Mapping[int, VersionDir]) -> None:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = ModelVersions(name, self._loader, self._turn, self._mark_changed)
            self._metrics.watch_queue(name, lambda: sum(version.engine.waiting for version in self._ready(name)))
            self._metrics.watch_devices(name, lambda: sum(version.engine.devices for version in self._ready(name)))
            self._metrics.watch_stalled(name, lambda: sum(version.engine.stalled for version in self._ready(name)))
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
            self._catalog = Catalog(
                models=models,
                default=self._default_name(),
                loading=self._loading,
                not_ready="; ".join(self._reasons()),
            )
        return self._catalog

    def _default_name(self) -> str | None:
        """The model of requests that name none."""
        if self._settings.model is not None:
            return self._settings.model
        # The default model does not change while it is served: a new model must not get requests meant for another.
        if self._default not in self._current():
            self._default = next(iter(self._current()), None)
        return self._default

    async def plan_status(self, key: int) -> PlanStatus | None:
        """State of the TensorRT engine of a version; None if none is needed and none was built."""
        loaded = self._by_key(key).loaded
        return None if loaded is None else loaded.plan_status

    async def load(self, name: str) -> None:
        """As `Backend.load`; raises Unavailable if a version that should be served cannot be loaded."""
        self._unloaded.discard(name)
        if name in self._models:
            self._models[name].retry()
        await self._read(now=True)
        if name not in self._models:
            raise self.catalog.not_found(name)
        await self._models[name].settled()
        if reason := self._models[name].failure():
            raise Unavailable(f"model {name} could not be loaded: {reason}")

    async def unload(self, name: str) -> None:
        """Serve no version of a model, not even a new one, until it is loaded again.

        Raises:
            NotFound: the repository has no such model.
        """
        if name not in self._models:
            raise self.catalog.not_found(name)
        self._unloaded.add(name)
        await self._read()

    async def set_traffic(self, name: str, policy: TrafficPolicy | None) -> None:
        """As `Backend.set_traffic`."""
        model = self._models.get(name)
        if model is None:
            raise self.catalog.not_found(name)
        async with self._reading:
            await self._policies.set_traffic(model, policy)
        await self._read()
        await model.settled()

    def _current(self) -> dict[str, Version]:
        current = {name: self._models[name].current for name in sorted(self._models)}
        return {name: version for name, version in current.items() if version is not None}

    def _ready(self, name: str) -> list[Version]:
        model = self._models.get(name)
        return [] if model is None else model.ready

    def _by_key(self, key: int) -> Version:
        return self._held.get(key) or next(
            version for name in self._models for version in self._ready(name) if version.served.key == key
        )

    async def statistics(self, key: int) -> Statistics:
        """Counts of a version since it was loaded."""
        return deepcopy(self._by_key(key).engine.statistics)

    def _served_versions(self) -> list[tuple[str, str, str, str]]:
        served = self.catalog.all_served()
        return [(model.name, model.version, model.executor, model.precision) for model in served]

    async def versions(self, name: str) -> list[VersionStatus]:
        """Every version of a model that is in the repository or in memory, oldest first."""
        return self._models[name].statuses()

    async def statuses(self) -> list[ModelStatus]:
        """Every model and version that is in the repository or in memory."""
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
        """Compute images with a version that the caller holds; raises as `Engine.submit`."""
        return await self._held[key].engine.submit(request)

    def begin(self, key: int, request: InferenceRequest, outcome: ResultReceiver) -> Callable[[], None]:
        """As `LocalBackend.begin`."""
        engine = self._held[key].engine
        return partial(engine.cancel, engine.begin(request, outcome))

    def count_refused(self, key: int) -> None:
        """Count a request for a version that was refused before it was submitted."""
        self._held[key].engine.statistics.failed(0.0)

    async def not_ready(self) -> list[str]:
        """As `Backend.not_ready`."""
        return self._reasons()

    def _reasons(self) -> list[str]:
        if self.draining:
            return ["shutting down"]
        if self._loading:
            return [LOADING]
        if current := self._current():
            return health.dead(current)
        none = f"{self._settings.repository} holds no model yet"
        return health.failures(self._models) or self._reader.problems() or [none]

    async def degraded(self) -> list[str]:
        """Limitations of a service that is ready: as `health.limits`, policies, and folders that cannot be read."""
        return self._reader.problems() + self._policies.problems(self._models) + health.limits(self._current())
