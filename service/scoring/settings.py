"""The settings of a version that scores files, without a server."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from models.validation import first_error
from service import executors
from service.core.settings import Settings, shipped_repository
from service.core.settings.offline import OfflineSettings
from service.executors.base import ExecutorError
from service.registry.repository import LoadError, find_versions
from service.registry.storage import StorageMirror


class ScoringError(Exception):
    """Nothing can be scored; the message says why in one sentence."""


def offline_settings(
    repository: str | None = None, model: str | None = None, version: int | None = None, **given: str | int | None
) -> Settings:
    """Make settings of the values that are given; others are those of `resnet-serve`, or of a tuned profile.

    A repository in object storage is copied once. Earlier copies are used while the storage cannot be read.

    Args:
        repository: folder or URL of models. Default: the model that ships with the project.
        model: name of the model, if the repository has several.
        version: its version. Default: the newest.
        given: further settings, such as `executor`; None for the default.

    Raises:
        ScoringError: a value is not valid, or the repository cannot be read or has no such version.
    """
    values = {**given, "versions": version and str(version)}
    try:
        settings: Settings = OfflineSettings(
            repository=repository or shipped_repository(),
            model=model,
            **{name: value for name, value in values.items() if value is not None},  # type: ignore[arg-type]
        )
        executors.find(settings.executor)
        settings = _with_copy(settings)
        found = find_versions(settings.repository_folder)
    except ValidationError as error:
        raise ScoringError(f"--{first_error(error)}") from error
    except (ExecutorError, LoadError) as error:
        raise ScoringError(str(error)) from error
    if version is not None and not any(version in versions for versions in found.values()):
        raise ScoringError(f"--model-version {version}: {settings.repository} has no such version")
    return settings


def _with_copy(settings: Settings) -> Settings:
    if isinstance(settings.repository, Path):
        return settings
    mirror = StorageMirror(settings.repository, settings.repository_folder)
    mirror.sync()  # logs the reasons for versions that were not copied
    if mirror.problems and not find_versions(settings.repository_folder):
        raise ScoringError(f"{settings.repository}: no version was copied")
    return settings.model_copy(update={"repository": settings.repository_folder})
