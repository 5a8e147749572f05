"""The traffic file: how the requests of each model are shared among its versions.

    [[model]]
    name = "resnet50"
    weights = {1 = 95, 2 = 5}
    sticky_header = "X-User"

The service reads it, and writes it for its admin API; `resnet-export promote` and `rollback` write it, too.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.artifact.manifest import MODEL_NAME
from models.files import atomic_write, decode_text
from models.validation import first_error

MAX_VERSIONS = 16
"""Most versions in the weights of a model. Each takes a few microseconds per request."""

MAX_SHADOWS = 4
"""Most shadows of a model."""

MIN_IMAGES = 20
"""Images from which rules decide by the agreement."""

MAX_KEPT = 48
"""Most images that are kept for a shadow."""

VersionNumber = Annotated[int, Field(ge=1, lt=10**18)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class TrafficFileError(ValueError):
    """A traffic file that is not valid, or cannot be read or written; the message gives the reason."""


class Rules(BaseModel):
    """When a version gets all requests, and when it loses those that it has."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    candidate: VersionNumber
    """The version that is tried. It must be a shadow, which measures its agreement."""
    min_images: Annotated[int, Field(ge=MIN_IMAGES)] = 1000
    """Compared images after which the version gets all requests, or none."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.98
    """Least share of the images with the same label first."""
    max_slowdown: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.5
    """Largest 99th percentile of the time of a batch, in times of that of the version that has answered."""
    max_errors: Annotated[int, Field(ge=0)] = 0
    """Most batches of the version that may fail."""
    dry_run: bool = False
    """Only write to the log what would be done."""


class TrafficPolicy(BaseModel):
    """How the requests of a model that name no version are shared among its versions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    weights: Annotated[dict[VersionNumber, Weight], Field(max_length=MAX_VERSIONS)]
    """Weight of each version, by number. A version gets its weight, divided by the sum of the weights, of the requests.
    A version with weight 0 is loaded and only answers requests that name it."""
    sticky_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None
    """Header of requests, such as X-User. Requests with the same value get the same version, as long as the weights
    stay. Requests without the header, and by default all, are shared by their X-Request-Id."""

    shadow: Annotated[dict[VersionNumber, Share], Field(max_length=MAX_SHADOWS)] = {}
    """Versions that also compute images which other versions have answered, for comparison: the share of the requests
    of each, by number, above 0 and at most 1. No request gets their results."""

    keep_images: Annotated[int, Field(ge=0, le=MAX_KEPT)] = 0
    """Images on which each shadow differed last, that are kept in memory and shown on the page; 0 keeps none."""
    rules: Rules | None = None
    """Rules that change the policy by themselves; None: only people and programs change it."""

    @property
    def versions(self) -> frozenset[int]:
        """All versions that the policy needs."""
        return frozenset(self.weights) | frozenset(self.shadow)

    @model_validator(mode="after")
    def _candidate_is_measured(self) -> TrafficPolicy:
        if self.rules is not None and self.rules.candidate not in self.shadow:
            raise ValueError(f"rules: the candidate, version {self.rules.candidate}, is not a shadow")
        if self.rules is not None and not any(
            weight for number, weight in self.weights.items() if number != self.rules.candidate
        ):
            raise ValueError("rules: no other version has a weight, so there is nothing to compare with")
        return self

    @field_validator("weights")
    @classmethod
    def _some_traffic(cls, weights: dict[int, float]) -> dict[int, float]:
        if not any(weights.values()):
            raise ValueError("no version has a weight above 0")
        return dict(sorted(weights.items()))


class _Entry(TrafficPolicy):
    name: Annotated[str, Field(pattern=MODEL_NAME)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: list[_Entry] = []

    @model_validator(mode="after")
    def _unique(self) -> _File:
        if len({entry.name for entry in self.model}) < len(self.model):
            raise ValueError("two entries have the same name")
        return self


def read_traffic(path: Path) -> dict[str, TrafficPolicy]:
    """The policies of a traffic file, by model; none if there is no such file.

    Raises:
        TrafficFileError: the file cannot be read or is not valid.
    """
    try:
        file = _File.model_validate(tomllib.loads(decode_text(path.read_bytes())))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrafficFileError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise TrafficFileError(f"{path}: {first_error(error)}") from error
    return {entry.name: TrafficPolicy(**entry.model_dump(exclude={"name"})) for entry in file.model}


def change_traffic(path: Path, name: str, policy: TrafficPolicy | None) -> dict[str, TrafficPolicy]:
    """Set the policy of a model in a traffic file, or remove it. One process at a time may do this.

    Returns:
        All policies of the file.

    Raises:
        TrafficFileError: the file is not valid, or cannot be read or written.
    """
    if not re.fullmatch(MODEL_NAME, name):
        raise TrafficFileError(f"{name!r} is not a valid model name")
    policies = {known: value for known, value in read_traffic(path).items() if known != name}
    if policy is not None:
        policies[name] = policy
    write_traffic(path, policies)
    return policies


def write_traffic(path: Path, policies: Mapping[str, TrafficPolicy]) -> None:
    """Write a traffic file, so that readers get the old content or the new one. Comments are lost.

    Raises:
        TrafficFileError: the file cannot be written.
    """
    entries = [_toml({"name": name, **policy.model_dump(exclude_defaults=True)}) for name, policy in policies.items()]
    try:
        atomic_write(path, "\n".join(entries).encode())
    except OSError as error:
        raise TrafficFileError(f"{path}: cannot be written: {error.strerror}") from error


def _toml(entry: Mapping[str, Any]) -> str:
    """One entry. Names and headers have no characters that TOML would need escaped."""
    lines = ["[[model]]"]
    for key, value in entry.items():
        if isinstance(value, dict):
            lines.append(f"{key} = {{{', '.join(f'{name} = {json.dumps(item)}' for name, item in value.items())}}}")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
