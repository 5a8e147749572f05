"""States of models, versions and engines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from models.artifact.manifest import Accuracy
from service.telemetry.agreement import AgreementReport


class VersionState(StrEnum):
    """State of a version, under the names of the Open Inference Protocol."""

    READY = "READY"
    """Takes requests."""
    LOADING = "LOADING"
    """Is being loaded, verified and warmed up."""
    UNLOADING = "UNLOADING"
    """Takes no new requests, and finishes those in flight."""
    UNAVAILABLE = "UNAVAILABLE"
    """Is not loaded, or cannot compute; there is a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatus:
    """One version that is in the repository or still in memory."""

    version: str
    state: VersionState
    reason: str | None = None
    """Why the version does not take requests, or what limits it."""
    accuracy: Accuracy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """Every version of a model that is in the repository or still in memory, oldest first."""

    name: str
    versions: list[VersionStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowStatus:
    """A version that computes images again which another version has answered, and how far both agree."""

    version: str
    """The version that has answered."""
    shadow: str
    """The version that computes its images again."""
    share: float
    """Share of the requests, from 0 to 1."""
    reason: str | None
    """Why there is no comparison."""
    waiting: int
    """Images that wait for a moment in which nothing else is computed."""
    dropped: int
    """Images that were not compared, because too many waited or the shadow was unloaded."""
    failed: int
    """Images that the shadow could not compute."""
    agreement: AgreementReport


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferingImage:
    """An image on which a shadow differs from the version that has answered."""

    version: str
    shadow: str
    label: str
    """The most probable class by the version that has answered."""
    probability: float
    shadow_label: str
    shadow_probability: float
    png: str
    """The pixels that both have computed, as a PNG in base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStatus:
    """State of the engine of a version in the engine cache: TensorRT's (plan), or a CUDA engine.

    READY: an engine fits this machine. MISSING: this machine can run engines, and none fits it. UNUSABLE: this machine
    cannot run engines, or the engine cannot be loaded.
    """

    state: Literal["READY", "MISSING", "UNUSABLE"]
    reason: str | None = None
    """Why the engine does not serve the version, and the command that builds a missing engine."""
