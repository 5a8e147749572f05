"""Buffers for tensors: those that hold values at different times share memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from export.kernels.packing.layout import round_up
from models.runtime.cuda_engine.plan import ALIGNMENT


@dataclass(frozen=True)
class Need:
    """A tensor that needs memory."""

    name: str
    bytes: int
    pattern: tuple[int, ...] | None
    """Where its zeros are, if it must have zeros: only tensors of the same pattern can take its place."""
    first: int
    last: int


@dataclass
class Place:
    """A buffer, and the tensors that it holds one after the other."""

    bytes: int
    zeroed: bool
    tensors: list[Need] = field(default_factory=list)
    offset: int = 0

    @property
    def first(self) -> int:
        return min(need.first for need in self.tensors)

    @property
    def last(self) -> int:
        return max(need.last for need in self.tensors)


def place_tensors(needs: list[Need]) -> tuple[list[Place], int]:
    """Give each tensor a buffer.

    Tensors with zeros share a buffer as a whole, which keeps its zeros. Others share parts of the arena.

    Returns:
        The buffers, and the size of the arena in bytes.
    """
    places: list[Place] = []
    patterned: dict[tuple[int, ...], list[Place]] = {}
    for need in sorted(needs, key=lambda each: each.first):
        if need.pattern is None:
            places.append(Place(need.bytes, zeroed=False, tensors=[need]))
            continue
        same = patterned.setdefault(need.pattern, [])
        place = next((each for each in same if each.last < need.first), None)
        if place is None:
            place = Place(need.bytes, zeroed=True)
            same.append(place)
            places.append(place)
        place.tensors.append(need)
    end = 0
    for place in (each for each in places if each.zeroed):
        place.offset = end
        end = round_up(end + place.bytes, ALIGNMENT)
    size = end
    placed: list[Place] = []
    for place in sorted((each for each in places if not each.zeroed), key=lambda each: -each.bytes):
        place.offset = _gap(place, placed, end)
        placed.append(place)
        size = max(size, round_up(place.offset + place.bytes, ALIGNMENT))
    return places, size


def _gap(place: Place, placed: list[Place], start: int) -> int:
    """The first gap between the buffers that hold values at the same time."""
    rivals = [each for each in placed if each.first <= place.last and place.first <= each.last]
    at = start
    for rival in sorted(rivals, key=lambda each: each.offset):
        if at + place.bytes <= rival.offset:
            return at
        at = max(at, round_up(rival.offset + rival.bytes, ALIGNMENT))
    return at
