"""The limit of open files bounds the connections."""

from __future__ import annotations

import resource

import pytest

from service.http.connection import server
from service.http.connection.server import FileLimitError

OTHER = 384
"""Files that connections within the limit do not take."""


@pytest.mark.parametrize(
    ("soft", "hard", "protocols", "allowed", "raised"),
    [
        (1024, resource.RLIM_INFINITY, 1, 1000, OTHER + 1000),
        (1024, 100_000, 1, 1000, OTHER + 1000),
        (100_000, 100_000, 1, 1000, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1, 1000, None),
        (500, 1000, 1, 1000 - OTHER, 1000),
        (OTHER + 1, OTHER + 1, 1, 1, None),
        (1024, 100_000, 2, 1000, OTHER + 2000),
        (500, OTHER + 601, 2, 300, OTHER + 601),
    ],
)
def test_connections_follow_the_limit_of_open_files(
    soft: int, hard: int, protocols: int, allowed: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, given: limits.append(given))
    assert server._allowed_connections(1000, protocols) == allowed
    assert limits == ([] if raised is None else [(raised, hard)])


def test_no_connection_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (OTHER, OTHER))
    with pytest.raises(FileLimitError, match=r"raise `ulimit -n` to 1384"):
        server._allowed_connections(1000)
