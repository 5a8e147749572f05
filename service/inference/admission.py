"""Admission: bounds the images in flight, from the acceptance of an image to its response, decoding included.

An image that cannot be computed in time is refused before any work is spent on it. The expected wait is the number of
images before it times the measured time per image (Little's law), whether decoding or inference takes that time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from service.core.errors import DeadlineExceeded, Overloaded
from service.core.priority import SHARE, Priority
from service.messages.model import ServedModel
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.telemetry.shared_series import SharedAmount

_HALF_LIFE = 2.0
"""Seconds of load after which the weight of a measurement is halved."""
_RESERVED_SHARE = 0.125
"""Share of the capacity that each priority has, whatever the load of the other."""
_MARGIN = 1.2
"""Safety factor of the expected time: a request that is admitted and then late has cost all of its work."""


class Admission:
    """Bounds the images in flight of one version. For the event loop only.

    Args:
        capacity: most images in flight.
        max_batch: most images per batch.
        concurrent_batches: batches that are computed at the same time.
        clock: seconds, monotonic.
        shared: the images in flight in all workers; None in a single process.
        workers: processes that share the capacity.
    """

    def __init__(
        self,
        capacity: int,
        max_batch: int,
        concurrent_batches: int = 1,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedAmount | None = None,
        workers: int = 1,
    ) -> None:
        self._capacity = capacity
        self._shared = shared
        self._reserved = int(capacity * _RESERVED_SHARE)
        # With this many images in flight the next batch is full: the throughput is that of the loaded service.
        self._saturation = max(1, min((concurrent_batches + 1) * max_batch, capacity) // workers)
        self._clock = clock
        self._in_flight = dict.fromkeys(Priority, 0)
        self._images = 0
        """Images in flight of both priorities."""
        self._throughput = _Throughput()
        self._saturated_since: float | None = None

    def __len__(self) -> int:
        """Images in flight."""
        return self._images

    def check(self, images: int, seconds: float, priority: Priority) -> None:
        """Check whether images can be admitted.

        Args:
            images: number of images.
            seconds: time limit of the request.
            priority: priority of the request.

        Raises:
            Overloaded: the images are above the capacity, or would not be computed in time.
        """
        in_flight = self._images
        elsewhere = 0 if self._shared is None else int(self._shared.elsewhere())
        if not in_flight and not elsewhere:
            return
        same_priority = self._in_flight[priority]
        room = self._capacity - elsewhere - max(in_flight - same_priority, self._reserved)
        if same_priority + images > room:
            raise Overloaded(self.retry_after(in_flight))
        # At worst they wait for all images; or for those of the same priority, at its share of the throughput.
        before = min(in_flight, same_priority / SHARE[priority])
        if before < self._saturation:  # a few are always admitted, as a measurement of the current throughput
            return
        needed = (
            min(in_flight + images, (same_priority + images) / SHARE[priority]) * self._throughput.seconds_per_image
        )
        if needed * _MARGIN > seconds:
            raise Overloaded(self.retry_after(before), "would_be_late")

    def enter(self, images: int, priority: Priority) -> None:
        """Count images as in flight."""
        self._in_flight[priority] += images
        self._images += images
        if self._shared is not None:
            self._shared.state(self._images)
        if self._saturated_since is None and self._images >= self._saturation:
            self._saturated_since = self._clock()

    def leave(self, images: int, priority: Priority, error: BaseException | None = None) -> None:
        """End the flight of images, which were computed or failed with an error."""
        computed = not isinstance(error, DeadlineExceeded | asyncio.CancelledError)
        self._in_flight[priority] -= images
        self._images -= images
        if self._shared is not None:
            self._shared.state(self._images)
        now = self._clock()
        if self._saturated_since is not None:
            self._throughput.add(images if computed else 0, now - self._saturated_since)
        self._saturated_since = now if self._images >= self._saturation else None

    def retry_after(self, images: float) -> int:
        """Whole seconds, at least one, until that many images are computed."""
        return max(1, math.ceil(images * self._throughput.seconds_per_image))


class AdmissionTable:
    """The admission of each served version; an entry ends with its version.

    Args:
        capacity: most images in flight per version.
        metrics: has the images in flight in other workers, if there are any.
    """

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity = capacity
        self._metrics = metrics
        self._table: WeakKeyDictionary[ServedModel, Admission] = WeakKeyDictionary()

    def of(self, model: ServedModel) -> Admission:
        """The admission of a version."""
        admission = self._table.get(model)
        if admission is None:
            admission = self._table[model] = Admission(
                self._capacity,
                model.max_batch,
                model.concurrent_batches,
                # By name, not by key: a series stays for good, and a version may be loaded again and again.
                shared=self._metrics.shared_amount("images_admitted", f"{model.name}/{model.version}"),
                workers=self._metrics.workers,
            )
        return admission

    def images(self) -> dict[str, int]:
        """Images in flight by name of the model."""
        counts: dict[str, int] = {}
        for model, admission in self._table.items():
            counts[model.name] = counts.get(model.name, 0) + len(admission)
        return counts


class _Throughput:
    """Time per image, averaged over the recent past."""

    def __init__(self) -> None:
        self._images = 0.0
        self._seconds = 0.0

    def add(self, images: int, seconds: float) -> None:
        weight = 0.5 ** (seconds / _HALF_LIFE)
        self._images = self._images * weight + images
        self._seconds = self._seconds * weight + seconds

    @property
    def seconds_per_image(self) -> float:
        """0 before the first measurement."""
        return self._seconds / self._images if self._images else 0.0
