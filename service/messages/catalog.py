"""The catalog: the versions that are served, as the computing side announces them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.artifact.traffic import TrafficPolicy
from service.core.errors import ModelNotLoaded, NotFound, NotYetAvailable, ServiceError, Unavailable
from service.messages.model import ServedModel

_BEING_LOADED = "the model is being loaded: try again in a moment"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """One model: its versions that take requests, and why others do not."""

    name: str
    current: ServedModel | None
    """The version that answers requests without a version; None if no version takes requests."""
    versions: Mapping[int, ServedModel]
    """Versions that take requests, by number, oldest first."""
    failures: Mapping[int, str]
    """Why versions could not be loaded, by number."""
    loading: frozenset[int]
    """Numbers of the versions that are being loaded."""
    traffic: TrafficPolicy | None = None
    """How requests that name no version are shared among the versions; None: the current one gets them."""
    on_demand: frozenset[int] = frozenset()
    """Versions of a model that is not in memory, and that a request loads."""

    def failure(self, number: int | None = None) -> str | None:
        """Why a version, or the newest that failed, could not be loaded."""
        if number is None:
            return self.failures[max(self.failures)] if self.failures else None
        return self.failures.get(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All models. A value: a change of what is served makes a new catalog."""

    models: Mapping[str, CatalogModel]
    """By name, sorted."""
    default: str | None
    """Name of the model of requests that name none."""
    loading: bool
    """Whether the models are still loaded for the first time."""
    not_ready: str = ""
    """Why nothing is served, if there is no default model."""

    def find(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The version for a request.

        Args:
            name: name of the model; None for the default model.
            version: version of the model; None for the current one.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: the version could not be loaded, or is not loaded yet.
        """
        name = name or self.default
        if name is None:
            raise NotYetAvailable(_BEING_LOADED) if self.loading else Unavailable(self.not_ready)
        model = self.models.get(name)
        if model is None:
            raise self.not_found(name)
        number = None if version is None else int(version)
        served = model.current if number is None else model.versions.get(number)
        if served is None:
            raise self._not_served(model, number)
        return served

    def not_loaded(self, name: str | None = None, version: str | None = None) -> str | None:
        """Name of the model of a request, if the request has to load it first; otherwise None."""
        model = self.models.get(name or self.default or "")
        if model is None or not model.on_demand or (version is not None and int(version) not in model.on_demand):
            return None
        return model.name

    def current(self) -> dict[str, ServedModel]:
        """The current version of each model, sorted by name."""
        return {name: model.current for name, model in self.models.items() if model.current is not None}

    def served(self, name: str) -> list[ServedModel]:
        """All versions of a model that take requests, oldest first."""
        model = self.models.get(name)
        return [] if model is None else list(model.versions.values())

    def _not_served(self, model: CatalogModel, number: int | None) -> ServiceError:
        name = model.name if number is None else f"{model.name} version {number}"
        if model.on_demand:
            if number is None or number in model.on_demand:
                return ModelNotLoaded(f"model {name} is not loaded, and a request for predictions loads it", 1)
            return self.not_found(name)
        if reason := model.failure(number):
            return Unavailable(f"model {name} is not served: {reason}")
        loading = bool(model.loading) if number is None else number in model.loading
        return NotYetAvailable(_BEING_LOADED) if loading else self.not_found(name)

    def all_served(self) -> list[ServedModel]:
        """All versions of all models that take requests."""
        return [model for name in self.models for model in self.served(name)]

    def not_found(self, wanted: str) -> ServiceError:
        """The error of a request for a model or version that is not served."""
        if self.loading:
            return NotYetAvailable(_BEING_LOADED)
        served = [f"{name} version {each.version}" for name in self.current() for each in self.served(name)]
        return NotFound(f"no model {wanted} is served; there is: {', '.join(served) or 'none'}")
