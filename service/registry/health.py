"""The models as a whole: figures, reasons why they are not served, and limits of those that are, in sentences."""

from __future__ import annotations

from collections.abc import Container, Mapping, Set
from pathlib import Path

from service.engine.engine import Engine
from service.messages.catalog import Catalog, CatalogModel
from service.registry.model_versions import ModelVersions
from service.registry.version import Version

_CHECK_SECONDS = 1.0


def current(models: Mapping[str, ModelVersions]) -> dict[str, Version]:
    """The current version of each model that has one, sorted by name."""
    versions = {name: models[name].current for name in sorted(models)}
    return {name: version for name, version in versions.items() if version is not None}


async def check_progress(models: Mapping[str, ModelVersions]) -> float:
    """Have the engines detect batches that do not end. Returns the seconds until the next check."""
    for model in models.values():
        for version in model.ready:
            version.engine.check_progress()
    return _CHECK_SECONDS


def engines(models: Mapping[str, ModelVersions]) -> list[Engine]:
    """The engines of all versions that take requests."""
    return [version.engine for model in models.values() for version in model.ready]


def reasons(models: Mapping[str, ModelVersions], none: list[str]) -> list[str]:
    """A sentence per reason why no request can be answered; `none` if there is no model."""
    if (found := current(models)) or any(model.catalog().on_demand for model in models.values()):
        return dead(found)
    return failures(models) or none


def nothing_served(repository: Path | str, models: Container[str], unloaded: Set[str]) -> list[str]:
    """Why no model is served, if none has failed."""
    if found := sorted(name for name in unloaded if name in models):
        return [f"{name} was unloaded: POST /v2/repository/models/{name}/load serves it again" for name in found]
    return [f"{repository} holds no model yet"]


def dead(current: Mapping[str, Version]) -> list[str]:
    """A sentence per current version, by the name of its model, whose engine has stopped."""
    return [
        f"{name}: {'; '.join(version.engine.problems) or 'its engine has stopped'}"
        for name, version in current.items()
        if not version.engine.alive
    ]


def served(catalog: Catalog) -> list[tuple[str, str, str, str]]:
    """Model, version, executor and precision of each served version."""
    return [(model.name, model.version, model.executor, model.precision) for model in catalog.all_served()]


def figures(models: Mapping[str, ModelVersions]) -> dict[str, tuple[int, int, int]]:
    """Images that wait, devices, and devices that are stalled, by model; without models that a request would load."""
    return {
        name: (
            sum(version.engine.waiting for version in model.ready),
            sum(version.engine.devices for version in model.ready),
            sum(version.engine.stalled for version in model.ready),
        )
        for name, model in models.items()
        if model.current is not None or not model.on_demand
    }


def failures(models: Mapping[str, ModelVersions]) -> list[str]:
    """A sentence per model with a version that could not be loaded."""
    failed = {name: model.catalog().failure() for name, model in models.items()}
    return [f"{name}: {reason}" for name, reason in failed.items() if reason]


def limits(current: Mapping[str, Version]) -> list[str]:
    """A sentence per device that is lost or does not finish its batch, and per engine that is missing or
    unusable."""
    sentences = []
    for name, version in current.items():
        sentences += [f"{name}: {problem}" for problem in version.engine.problems]
        if version.loaded is not None and version.loaded.fallback_reason is not None:
            sentences.append(f"{name}: {version.loaded.fallback_reason}")
    return sentences


def choose_default(models: Mapping[str, CatalogModel], previous: str | None) -> str | None:
    """The model of requests that name none: the previous one while it is served, otherwise the first by name.

    A new model must not get requests meant for another.
    """
    served = [name for name, model in models.items() if model.current is not None or model.on_demand]
    return previous if previous in served else next(iter(served), None)
