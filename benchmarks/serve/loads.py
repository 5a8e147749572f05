"""What is sent, and how: the list of loads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.serve import payloads
from models.imaging.preprocess import Preprocess

Kind = Literal["jpeg", "png", "many", "tensor"]
KINDS: tuple[Kind, ...] = ("jpeg", "png", "many", "tensor")
OPEN_KIND: Kind = "jpeg"
"""Of the open loops."""
FORMATS: dict[Kind, str] = {"jpeg": "JPEG", "png": "PNG", "many": "JPEG"}
"""Of the files that are decoded; a tensor is not."""

_MANY_CONNECTIONS = (1, 4)
"""More connections, with 64 images each, would have requests refused by the default `--queue-size` of 512."""


@dataclass(frozen=True)
class Load:
    """Closed loop: so many connections, each with one request at a time. Open loop: requests at Poisson times."""

    kind: Kind
    connections: int | None = None
    share: float | None = None
    """Open loop: of the capacity, as measured by the closed ones before."""

    @property
    def images(self) -> int:
        """In each request."""
        return payloads.MANY if self.kind == "many" else 1

    @property
    def name(self) -> str:
        how = f"open {self.share:.0%}" if self.share is not None else f"{self.connections}"
        return f"{self.kind}, {how}"


def plan(kinds: Sequence[Kind], connections: Sequence[int], shares: Sequence[float]) -> list[Load]:
    """The loads of one round. Open loops come last: their rate depends on what the closed ones reach."""
    closed = [
        Load(kind, connections=count)
        for kind in kinds
        for count in (_MANY_CONNECTIONS if kind == "many" else connections)
    ]
    return closed + [Load(OPEN_KIND, share=share) for share in shares if OPEN_KIND in kinds]


def requests(
    kinds: Sequence[Kind], files: Sequence[bytes], preprocess: Preprocess, model: str
) -> dict[Kind, list[bytes]]:
    """The requests of each kind, as bytes, made of image files."""
    formats = {kind: payloads.encoded(files, name) for kind, name in FORMATS.items() if kind in kinds}
    made: dict[Kind, list[bytes]] = {}
    for kind in kinds:
        if kind == "tensor":
            made[kind] = payloads.tensors(payloads.pixels(files, preprocess), model)
        elif kind == "many":
            made[kind] = payloads.many(formats[kind], FORMATS[kind], model)
        else:
            made[kind] = payloads.single(formats[kind], FORMATS[kind], model)
    return made


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of arrivals, in seconds, `rate` a second on average."""
    draw = random.Random(seed)
    arrivals: list[float] = []
    now = draw.expovariate(rate)
    while now < seconds:
        arrivals.append(now)
        now += draw.expovariate(rate)
    return arrivals
