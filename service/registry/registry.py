"""What is loaded: the models of a repository, kept in step with it while requests are answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from service.core.errors import NotFound, ServiceError, Unavailable
from service.core.settings import Settings
from service.core.version_policy import Policies, Policy
from service.messages.inference import InferenceRequest, InferenceResult
from service.messages.model import ServedModel
from service.messages.status import EngineStatus, ModelStatus, VersionStatus
from service.registry import fallback, repository
from service.registry.execution_config import ExecutionConfig
from service.registry.model_versions import ModelVersions, VersionHandle
from service.registry.plans import Plans, is_tensorrt
from service.registry.repository import LoadedModel, LoadError, VersionDir
from service.registry.watcher import changes
from service.telemetry.metrics import Metrics
from service.telemetry.statistics import Statistics

log = logging.getLogger(__name__)

LOADING = "loading and warming up"
"""Why a service is not ready yet; any other reason stays until something is done."""

_UNLOADED = Policy("unloaded", frozenset())


class Registry:
    """The models of a repository, each with the versions that its policy chooses."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.loading = True
        self.draining = False
        self._settings = settings
        self._metrics = metrics
        self._policies = Policies(settings.versions)
        self._models: dict[str, ModelVersions] = {}
        self._held: dict[int, VersionHandle] = {}
        """Versions that requests hold, by the key of their model."""
        self._unloaded: set[str] = set()
        self._default: str | None = None
        self._trouble: str | None = None
        """Why the repository cannot be read."""
        self._stop = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self._plans = Plans(settings.cache, self._engine_built)
        metrics.watch_versions(self._served_versions)

    async def start(self) -> None:
        """Load and warm up every model; what fails leaves its reason."""
        try:
            await self.refresh()
        finally:
            self.loading = False

    async def watch(self) -> None:
        """Follow the repository until `close`."""
        async for _ in changes(self._settings.repository, self._settings.watch, self._stop):
            await self.refresh()

    async def close(self) -> None:
        """Finish what was accepted, then free everything."""
        self.draining = True
        self._stop.set()
        await self._plans.close()
        async with self._refreshing:
            await asyncio.gather(*(model.close() for model in self._models.values()))

    async def refresh(self) -> None:
        """Look at the repository, load what is new and retire what is gone; what fails is not tried again as it is."""
        async with self._refreshing:
            try:
                found = await asyncio.to_thread(repository.find_versions, self._settings.repository)
            except LoadError as error:  # what is served goes on: a file system may be away for a moment
                if str(error) != self._trouble:
                    log.error("%s", error)
                self._trouble = str(error)
                return
            self._trouble = None if found else f"{self._settings.repository} holds no model yet"
            for name in sorted(found.keys() | self._models.keys()):
                if not self.draining:
                    await self._follow(name, found.get(name, {}))

    async def _follow(self, name: str, found: Mapping[int, VersionDir]) -> None:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = ModelVersions(name, self._load)
            self._metrics.watch_queue(name, lambda: sum(model.engine.waiting for model in self._loaded(name)))
            self._metrics.watch_devices(name, lambda: sum(model.engine.devices for model in self._loaded(name)))
        await model.follow(found, _UNLOADED if name in self._unloaded else self._policies.of(name))
        self._plans.start()
        if model.empty:
            del self._models[name]

    def _load(self, folder: Path, serving: LoadedModel | None) -> LoadedModel:
        """In a thread."""

        def load(choice: ExecutionConfig) -> LoadedModel:
            return repository.load(folder, choice, self._settings, self._metrics, serving)

        with self._metrics.loading():
            choice = repository.choose(folder, self._settings)
            engine = self._plans.look(folder, choice.executor, choice.precision)
            if engine is None or not is_tensorrt(choice.executor):
                return load(choice)
            if engine.state == "READY":
                try:
                    return load(choice)
                except LoadError as error:
                    self._plans.refused(folder, error)
            return load(fallback.instead(folder, choice))

    async def _engine_built(self, folder: Path) -> None:
        """Have TensorRT take over from what serves in its place."""
        if model := self._models.get(folder.parent.name):
            model.mark_stale(int(folder.name))
            await self.refresh()

    def engine_status(self, key: int) -> EngineStatus | None:
        """State of the TensorRT engine of a version; None if there is none and none is needed."""
        model = self._by_key(key)
        return self._plans.status(self._settings.repository / model.name / model.version)

    async def load(self, name: str) -> None:
        """Serve a model that was unloaded, and try again what failed.

        Raises:
            NotFound: the repository holds no such model.
            Unavailable: a version that should be served cannot be.
        """
        self._unloaded.discard(name)
        if name in self._models:
            self._models[name].forget_failures()
        await self.refresh()
        if name not in self._models:
            raise self._not_found(name)
        if reason := self._models[name].reason():
            raise Unavailable(f"model {name} could not be loaded: {reason}")

    async def unload(self, name: str) -> None:
        """Serve no version of a model, whatever comes into the repository, until it is loaded again.

        Raises:
            NotFound: the repository holds no such model.
        """
        if name not in self._models:
            raise self._not_found(name)
        self._unloaded.add(name)
        await self.refresh()

    def current(self) -> dict[str, ServedModel]:
        """The current version of each model, sorted by name."""
        return {name: model.served for name, model in self._current().items()}

    def _current(self) -> dict[str, LoadedModel]:
        served = {name: self._models[name].current for name in sorted(self._models)}
        return {name: model for name, model in served.items() if model is not None}

    def served(self, name: str) -> list[ServedModel]:
        """All versions of a model that take requests, oldest first."""
        return [model.served for model in self._loaded(name)]

    def _loaded(self, name: str) -> list[LoadedModel]:
        model = self._models.get(name)
        return [] if model is None else model.served

    def _by_key(self, key: int) -> LoadedModel:
        return next(model for name in self._models for model in self._loaded(name) if model.served.key == key)

    def statistics(self, key: int) -> Statistics:
        """Counts of a version since it was loaded."""
        return deepcopy(self._by_key(key).statistics)

    def _served_versions(self) -> list[tuple[str, str, str, str]]:
        served = [model for name in self._models for model in self._loaded(name)]
        return [(model.name, model.version, model.executor, model.precision) for model in served]

    def versions(self, name: str) -> list[VersionStatus]:
        """Every version of a model that is in the repository or in memory, oldest first."""
        return self._models[name].statuses()

    def statuses(self) -> list[ModelStatus]:
        """Every model and version that is in the repository or in memory."""
        return [ModelStatus(name=name, versions=self._models[name].statuses()) for name in sorted(self._models)]

    def find(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The version that would answer a request.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: the version could not be loaded, or is not loaded yet.
        """
        return self._find(name, version).model.served

    def hold(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """As `find`; the version is not freed before `release` was called, once per call of `hold`."""
        handle = self._find(name, version)
        handle.users += 1
        model = handle.model.served
        self._held[model.key] = handle
        return model

    def release(self, key: int) -> None:
        """End one `hold` of a version."""
        handle = self._held[key]
        handle.users -= 1
        if not handle.users:
            del self._held[key]
            handle.unused.set()

    async def submit(self, key: int, request: InferenceRequest) -> InferenceResult:
        """Compute images with a version that the caller holds; raises as `Engine.submit`."""
        return await self._held[key].model.engine.submit(request)

    def count_refused(self, key: int) -> None:
        """Count a request for a version that was refused before it was submitted."""
        self._held[key].model.statistics.failed(0.0)

    def _find(self, name: str | None, version: str | None) -> VersionHandle:
        name = name or self._default_name()
        model = self._models.get(name)
        number = None if version is None else int(version)
        if model is None:
            raise self._not_found(name)
        if (handle := model.find(number)) is None:
            raise self._not_served(model, number)
        return handle

    def _default_name(self) -> str:
        if self._settings.model is not None:
            return self._settings.model
        # It stays once chosen: a model that comes later does not take over requests meant for another.
        if self._default is None or not self._serves(self._default):
            self._default = next(iter(self._current()), None)
        if self._default is None:
            raise _being_loaded() if self.loading else Unavailable("; ".join(self.not_ready()))
        return self._default

    def _serves(self, name: str) -> bool:
        model = self._models.get(name)
        return model is not None and model.find() is not None

    def _not_served(self, model: ModelVersions, number: int | None) -> ServiceError:
        name = model.name if number is None else f"{model.name} version {number}"
        if reason := model.reason(number):
            return Unavailable(f"model {name} is not served: {reason}")
        return _being_loaded() if model.is_loading(number) else self._not_found(name)

    def _not_found(self, wanted: str) -> ServiceError:
        if self.loading:
            return _being_loaded()
        there = ", ".join(
            f"{name} version {version.version}" for name in self._current() for version in self._models[name].served
        )
        return NotFound(f"no model {wanted} is served; there is: {there or 'none'}")

    def not_ready(self) -> list[str]:
        """What keeps the service from answering; empty when it is ready."""
        if self.draining:
            return ["shutting down"]
        if self.loading:
            return [LOADING]
        current = self._current()
        dead = [
            f"{name}: {'; '.join(model.engine.lost) or 'its engine has stopped'}"
            for name, model in current.items()
            if not model.engine.alive
        ]
        if dead or current:
            return dead
        failed = {name: model.reason() for name, model in self._models.items()}
        reasons = [f"{name}: {reason}" for name, reason in failed.items() if reason]
        return reasons or [self._trouble or "no model is served"]

    def degraded(self) -> list[str]:
        """What answers with less than it was given: models that go on although a device of theirs is lost."""
        return [f"{name}: {lost}" for name, model in self._current().items() for lost in model.engine.lost]


def _being_loaded() -> Unavailable:
    return Unavailable("the model is being loaded: try again in a moment")
