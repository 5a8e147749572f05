"""The two names of a model: the input of `NAME` is pixels, and the input of `NAME-encoded` is image files."""

from __future__ import annotations

from dataclasses import dataclass

from service.core.naming import ENCODED

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,135}$"
"""Names in requests."""


@dataclass(frozen=True)
class ModelName:
    """A model under one of its two names."""

    name: str
    """Name in the request."""
    model: str
    """Name in the repository."""
    version: str | None = None

    @classmethod
    def of(cls, name: str, version: str | None = None) -> ModelName:
        """Read a name of a request."""
        return cls(name, name.removesuffix(ENCODED), version)

    @property
    def encoded(self) -> bool:
        """Whether the input of this name is image files."""
        return self.name != self.model
