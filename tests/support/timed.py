"""An executor that computes nothing, and whose time is a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest


@dataclass
class Clock:
    """In place of the one that `service.sizing` looks at."""

    now: float = 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("service.engine.sizing.time.perf_counter", lambda: self.now)


@dataclass(eq=False)
class TimedExecutor:
    """A batch takes as long as a table says; one of a size that the table lacks fails."""

    seconds: Mapping[int, float]
    clock: Clock
    device: str = "cpu"
    computes: bool = True
    threads: int = 1
    lanes: int = 1
    buckets: Sequence[int] = ()
    closed: bool = False
    _sizes: set[int] = field(default_factory=set)

    def prepare(self, max_batch: int) -> None:
        """There is nothing to be made."""

    def acquire(self, n: int) -> Any:
        return np.empty((n, 1, 1, 1), np.uint8)

    def run(self, images: Any, outputs: frozenset[str]) -> dict[str, Any]:
        # The first run of a size is slow, as it is where a runtime plans its memory.
        self.clock.now += self.seconds[len(images)] * (1 if len(images) in self._sizes else 3)
        self._sizes.add(len(images))
        return {}

    def close(self) -> None:
        assert not self.closed
        self.closed = True
