"""Who is let in: an image counts from the moment it is accepted until it is answered, so the bound covers decoding.

What cannot be done in time is refused before any work is put into it, and what is refused costs next to nothing. How
long a newcomer would wait is the number of images before it times the measured time an image (Little's law), so it
does not matter whether decoding or inference is what takes the time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from service.core.errors import DeadlineExceeded, Overloaded
from service.core.priority import SHARE, Priority
from service.messages.model import ServedModel

_HALF_LIFE = 2.0
"""Seconds of load after which a measurement counts half."""
_KEPT = 0.125
"""Of the capacity, kept free for either priority, however much of the other comes."""
_MARGIN = 1.2
"""Images that are let in have this much more time than predicted: a promise broken costs the work put into it."""


class Admission:
    """Bounds the images in the service, for one engine. Used on the event loop only.

    Args:
        capacity: most images accepted and not yet answered.
        max_batch: most images that the engine computes together.
        lanes: batches that it computes at the same time.
        clock: seconds, monotonic.
    """

    def __init__(
        self, capacity: int, max_batch: int, lanes: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._reserved = int(capacity * _KEPT)
        # With this many images inside, the next batch is always full: the pace is that of the loaded service.
        self._saturation = min((lanes + 1) * max_batch, capacity)
        self._clock = clock
        self._inside = dict.fromkeys(Priority, 0)
        self._images = 0
        """Of both priorities."""
        self._throughput = _Throughput()
        self._busy_since: float | None = None

    def __len__(self) -> int:
        """Images accepted and not yet answered."""
        return self._images

    def check(self, images: int, seconds: float, priority: Priority) -> None:
        """Refuse what would not be let in.

        Args:
            images: how many come.
            seconds: how long they can wait.
            priority: interactive images pass the bulk ones.

        Raises:
            Overloaded: they do not fit, or would not be done in time.
        """
        inside = self._images
        if not inside:
            return
        alike = self._inside[priority]
        room = self._capacity - max(inside - alike, self._reserved)
        if alike + images > room:
            raise Overloaded(self.retry_after(inside))
        # They wait for all others at most, or for those alike at the share of the engine that these have in any case.
        before = min(inside, alike / SHARE[priority])
        if before < self._saturation:  # a few are always let in: they show whether the pace is still as it was
            return
        needed = min(inside + images, (alike + images) / SHARE[priority]) * self._throughput.seconds_per_image
        if needed * _MARGIN > seconds:
            raise Overloaded(self.retry_after(before), "would_be_late")

    def enter(self, images: int, priority: Priority) -> None:
        """Images come in."""
        self._inside[priority] += images
        self._images += images
        if self._busy_since is None and self._images >= self._saturation:
            self._busy_since = self._clock()

    def leave(self, images: int, priority: Priority, error: BaseException | None = None) -> None:
        """Images are answered, or given up because of an error."""
        answered = not isinstance(error, DeadlineExceeded | asyncio.CancelledError)
        self._inside[priority] -= images
        self._images -= images
        now = self._clock()
        if self._busy_since is not None:
            self._throughput.add(images if answered else 0, now - self._busy_since)
        self._busy_since = now if self._images >= self._saturation else None

    def retry_after(self, images: float) -> int:
        """Whole seconds, at least one, in which that many images are answered."""
        return max(1, math.ceil(images * self._throughput.seconds_per_image))


class AdmissionTable:
    """The admission of each version that is served. An entry goes with its version.

    Args:
        capacity: most images of a version that are accepted and not yet answered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._table: WeakKeyDictionary[ServedModel, Admission] = WeakKeyDictionary()

    def of(self, model: ServedModel) -> Admission:
        """The admission of a version."""
        admission = self._table.get(model)
        if admission is None:
            admission = self._table[model] = Admission(self._capacity, model.max_batch, model.concurrent_batches)
        return admission

    def images(self) -> dict[str, int]:
        """Images accepted and not yet answered, by name of the model."""
        counts: dict[str, int] = {}
        for model, admission in self._table.items():
            counts[model.name] = counts.get(model.name, 0) + len(admission)
        return counts


class _Throughput:
    """Time an image, as an average over the recent past."""

    def __init__(self) -> None:
        self._images = 0.0
        self._seconds = 0.0

    def add(self, images: int, seconds: float) -> None:
        keep = 0.5 ** (seconds / _HALF_LIFE)
        self._images = self._images * keep + images
        self._seconds = self._seconds * keep + seconds

    @property
    def seconds_per_image(self) -> float:
        """0 until it has been measured."""
        return self._seconds / self._images if self._images else 0.0
