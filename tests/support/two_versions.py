"""A model with two versions that share its requests, and a version that fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from models.artifact.parity import Float32Array
from models.artifact.traffic import TrafficPolicy, change_traffic
from models.imaging.preprocess import UInt8Array
from service.core.settings import Settings
from tests.support.service import Client, serve
from tests.support.tiny import renumber

MOSTLY_2 = TrafficPolicy(weights={1: 1, 2: 1_000_000_000})
"""Version 2 gets all requests of a test, and version 1 computes in its place."""


@contextmanager
def serve_two_versions(
    source: Path, folder: Path, policy: TrafficPolicy, change: Callable[[Path], object] | None = None, **settings: Any
) -> Iterator[Client]:
    """Version 1, and version 2, the same network with a change."""
    for number in (1, 2):
        renumber(shutil.copytree(source / "tiny" / "1", folder / "repository" / "tiny" / str(number)), number)
    if change is not None:
        change(folder / "repository" / "tiny" / "2")
    change_traffic(folder / "traffic.toml", "tiny", policy)
    with serve(
        Settings(repository=folder / "repository", traffic=folder / "traffic.toml", single_image_threads=0, **settings)
    ) as client:
        yield client


@contextmanager
def failing(client: Client, number: int) -> Iterator[None]:
    """Each batch of a version of `tiny` fails."""

    def fail(gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        raise RuntimeError("no kernel for this")

    (version,) = [each for each in client.registry._models["tiny"].ready if each.number == number]
    with ExitStack() as patches:
        for executor in version.engine.executors:
            patches.enter_context(patch.object(executor, "run", fail))
        yield
