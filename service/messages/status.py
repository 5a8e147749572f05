"""States of models and versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.artifact.manifest import Accuracy

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatus:
    """One version that is in the repository or still in memory."""

    version: str
    state: State
    reason: str | None = None
    """Why the version is not served."""
    accuracy: Accuracy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """Every version of a model that is in the repository or still in memory, oldest first."""

    name: str
    versions: list[VersionStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The TensorRT engine of a version in the engine cache."""

    state: Literal["READY", "BUILDING", "UNUSABLE", "FAILED"]
    """It fits this machine; does not, and another is being built; cannot be built here; or could not be."""
    reason: str | None = None
    """Why TensorRT does not serve the version: what the engine was built for, and what is here."""
