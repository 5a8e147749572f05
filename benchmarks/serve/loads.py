"""The loads: which requests are sent, and how."""

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
"""Kind of the requests of open loops."""
FORMATS: dict[Kind, str] = {"jpeg": "JPEG", "png": "PNG", "many": "JPEG"}
"""Format of the image files by kind; a tensor is not decoded."""

_MANY_CONNECTIONS = (1, 4)
"""With more connections of 64 images per request, the default `--max-in-flight-images` of 512 would refuse requests."""


@dataclass(frozen=True)
class Load:
    """A closed loop: connections with one request at a time each; or an open loop: requests at Poisson times."""

    kind: Kind
    connections: int | None = None
    share: float | None = None
    """Open loop: rate as a share of the capacity that the closed loops measured before."""

    @property
    def images(self) -> int:
        """Images per request."""
        return payloads.MANY if self.kind == "many" else 1

    @property
    def name(self) -> str:
        how = f"open {self.share:.0%}" if self.share is not None else f"{self.connections}"
        return f"{self.kind}, {how}"


def plan(kinds: Sequence[Kind], connections: Sequence[int], shares: Sequence[float]) -> list[Load]:
    """The loads of one round. Open loops come last: their rate depends on the closed loops."""
    closed = [
        Load(kind, connections=count)
        for kind in kinds
        for count in (_MANY_CONNECTIONS if kind == "many" else connections)
    ]
    return closed + [Load(OPEN_KIND, share=share) for share in shares if OPEN_KIND in kinds]


def requests(
    kinds: Sequence[Kind], files: Sequence[bytes], preprocess: Preprocess, model: str
) -> dict[Kind, list[bytes]]:
    """The HTTP requests of each kind, made from image files."""
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
    """Times of Poisson arrivals in seconds, on average `rate` per second."""
    draw = random.Random(seed)
    arrivals: list[float] = []
    now = draw.expovariate(rate)
    while now < seconds:
        arrivals.append(now)
        now += draw.expovariate(rate)
    return arrivals
