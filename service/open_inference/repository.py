"""The repository extension: lists all versions, and lets admins load and unload models of the repository.

Models are loaded only from the repository, never from a path, a URL or a body in a request.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from service.core.errors import BadRequest
from service.core.naming import ENCODED
from service.messages.backend import Backend


@dataclass(frozen=True)
class IndexEntry:
    name: str
    version: str
    state: str
    reason: str


async def list_versions(backend: Backend, only_ready: bool) -> list[IndexEntry]:
    """List every version in the repository or in memory, with the reason if it is not served.

    Args:
        backend: has the versions.
        only_ready: leave out versions that are not served.
    """
    return [
        IndexEntry(name=name, version=status.version, state=status.state, reason=status.reason or "")
        for model in await backend.statuses()
        for name in (model.name, model.name + ENCODED)
        for status in model.versions
        if status.state == "READY" or not only_ready
    ]


def check_parameters(parameters: Collection[str]) -> None:
    """Check the names of the parameters of a request to load or unload a model.

    Raises:
        BadRequest: a parameter is not supported, such as another configuration, or files of a model.
    """
    if unknown := set(parameters) - {"unload_dependents"}:
        raise BadRequest(
            f"parameter {min(unknown)!r} is not supported: models are loaded as they are in the repository"
        )
